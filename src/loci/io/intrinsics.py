"""Camera intrinsics in: four numbers, a 3x3 matrix, or a file of either."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loci.errors import LociError
from loci.io.files import shown

MAX_PIXEL_ASPECT = 0.02
"""By which FX / FY may differ from 1: pixels are taken to be square."""
EXPECTED = "expected FX FY CX CY or a 3x3 camera matrix, in pixels of the picture"
KEYS = ("camera_matrix", "intrinsics", "K")


class Intrinsics(NamedTuple):
    """The inner geometry of a pinhole camera, whatever the picture's number of pixels.

    Attributes:
        fov: 2 atan(width / 2 / focal length) in degrees: the horizontal field of view where the
            principal point is in the centre.
        principal: where the optical axis meets the picture, as shares of its width (from the left)
            and height (from the top).
    """

    fov: float
    principal: tuple[float, float] = (0.5, 0.5)


def read_intrinsics(source: Any, height: int, width: int, name: str = "intrinsics") -> Intrinsics:
    """The intrinsics of a picture.

    Args:
        source: FX, FY, CX, CY or a 3x3 camera matrix in pixels, as a sequence, array or tensor, or
            in a .npy, .json or text file; the centre of the first pixel is at 0.5.
        height: of the picture in pixels.
        width: of the picture in pixels.
        name: what an error calls them.

    Raises:
        LociError: when they cannot be read, are no camera's, or pixels are not square.
    """
    if isinstance(source, Intrinsics):
        return source
    if isinstance(source, str | Path):
        name, source = shown(source), _from_file(Path(source))
    fx, fy, cx, cy = _four(source, name)
    if not (fx > 0 and fy > 0):
        raise LociError(f"{name}: focal lengths {fx:g} and {fy:g}, expected more than 0 pixels")
    if abs(fx / fy - 1) > MAX_PIXEL_ASPECT:
        raise LociError(f"{name}: focal lengths {fx:g} and {fy:g}, expected square pixels: resize")
    if max(abs(cx / width - 0.5), abs(cy / height - 0.5)) > 10:
        raise LociError(
            f"{name}: principal point {cx:g} {cy:g}, expected pixels of the picture of "
            f"{width} x {height}"
        )
    fov = math.degrees(2 * math.atan(width / (fx + fy)))
    if not 1 < fov < 160:
        raise LociError(
            f"{name}: focal length {fx:g}, expected pixels of the picture of {width} x {height}"
        )
    return Intrinsics(fov, (cx / width, cy / height))


def is_camera_matrix(values: np.ndarray) -> bool:
    """Whether an array is a camera matrix or a pose: 3x3 or 4x4, its last row 0 ... 0 1."""
    if values.shape not in ((3, 3), (4, 4)):
        return False
    return bool((values[-1, :-1] == 0).all() and values[-1, -1] == 1)


def _four(source: Any, name: str) -> tuple[float, float, float, float]:
    if hasattr(source, "detach"):  # a tensor
        source = source.detach().cpu().numpy()
    if not isinstance(source, np.ndarray | Sequence) or isinstance(source, str | bytes):
        raise LociError(f"{name}: {type(source).__name__}, {EXPECTED}")
    try:
        values = np.asarray(source, np.float64)
    except (TypeError, ValueError) as error:
        raise LociError(f"{name}: no numbers, {EXPECTED}") from error
    if values.shape == (9,):
        values = values.reshape(3, 3)
    if values.shape == (3, 3):
        if not is_camera_matrix(values) or values[1, 0] != 0:
            raise LociError(f"{name}: 3x3 but no camera matrix, expected 0 0 1 in its last row")
        if abs(values[0, 1]) > MAX_PIXEL_ASPECT * abs(values[0, 0]):
            raise LociError(f"{name}: skew {values[0, 1]:g}, expected none")
        values = values[[0, 1, 0, 1], [0, 1, 2, 2]]
    if values.shape != (4,):
        raise LociError(f"{name}: shape {list(values.shape)}, {EXPECTED}")
    if not np.isfinite(values).all():
        raise LociError(f"{name}: not finite, {EXPECTED}")
    fx, fy, cx, cy = map(float, values)
    return fx, fy, cx, cy


def _from_file(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or "damaged"
        raise LociError(f"{shown(path)}: cannot be read ({reason})") from error
    except (ValueError, EOFError, SyntaxError) as error:
        raise LociError(f"{shown(path)}: damaged or no numbers, {EXPECTED}") from error
    try:
        if path.suffix.lower() != ".json":
            return np.array([float(word) for word in text.replace(",", " ").split()])
        content = json.loads(text)
    except ValueError as error:
        raise LociError(f"{shown(path)}: no numbers, {EXPECTED}") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in KEYS if key in content), None)
        if content is None:
            raise LociError(f"{shown(path)}: expected one of {', '.join(KEYS)}")
    return content
