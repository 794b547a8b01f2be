"""Points and depths from files: .npy, .npz, depth PNGs of 16 bits, and EXR."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loci.errors import LociError
from loci.io.files import shown
from loci.io.images import open_image

DEPTH_SCALE = 1000.0
"""What depth PNGs store for a depth of 1: millimetres for metres."""
NAMES = ("points", "pointmap", "depth")
"""Arrays that are looked for in a .npz with several."""
FAR = 65504.0
"""The largest half float: renderers store it, or more, where nothing is seen."""
EXPECTED = "expected points or depths in .npy, .npz or a PNG of 16 bits"


def read_geometry(source: Any, depth_scale: float = DEPTH_SCALE) -> NDArray[Any]:
    """The array of a pointmap, as it is stored; depths of a PNG become floats, NaN where unknown.

    Args:
        source: a file, an array or a tensor.
        depth_scale: what a PNG stores for a depth of 1.

    Raises:
        LociError: when it cannot be read, or holds something else.
    """
    if hasattr(source, "detach"):  # a tensor
        return source.detach().float().cpu().numpy()
    if isinstance(source, np.ndarray):
        return source
    if not isinstance(source, str | Path):
        kind = type(source).__name__
        raise LociError(f"pointmap: {kind}, expected a file, a NumPy array or a tensor")
    if str(source).lower().endswith(".exr"):
        return _from_exr(source)
    if str(source).lower().endswith((".png", ".tif", ".tiff")):
        return _from_depths(source, depth_scale)
    try:
        values = np.load(source, allow_pickle=False)
        return values if isinstance(values, np.ndarray) else _from_several(values, source)
    except OSError as error:
        reason = error.strerror or "damaged"
        raise LociError(f"{shown(source)}: cannot be read ({reason})") from error
    except (ValueError, EOFError, SyntaxError, UnicodeDecodeError, BadZipFile) as error:
        raise LociError(f"{shown(source)}: damaged or no numbers, {EXPECTED}") from error


def _from_several(arrays: Any, source: str | Path) -> NDArray[Any]:
    """The only array of a .npz, or the one of a name that tells."""
    names = arrays.files
    name = names[0] if len(names) == 1 else next((n for n in NAMES if n in names), None)
    if name is None:
        held = ", ".join(names[:8]) or "none"
        raise LociError(f"{shown(source)}: arrays {held}, expected one, or {' or '.join(NAMES)}")
    return arrays[name]


def _from_exr(source: str | Path) -> NDArray[Any]:
    """Depths of a channel Z (or depth, or the only one, or three that are alike), or points of X, Y
    and Z, or of R, G and B; NaN where nothing is seen."""
    try:
        from OpenEXR import File  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        text = "EXR is read with the package OpenEXR: pip install OpenEXR"
        raise LociError(f"{shown(source)}: {text}; or {EXPECTED}") from error
    try:
        with File(str(source), separate_channels=True) as file:
            stored = {
                name: np.array(one.pixels, np.float32) for name, one in file.channels().items()
            }
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise LociError(f"{shown(source)}: cannot be read as EXR, {EXPECTED}") from error
    by_name = {name.rsplit(".", 1)[-1].upper(): values for name, values in stored.items()}
    several = next(
        ([by_name[n] for n in names] for names in ("XYZ", "RGB") if set(names) <= by_name.keys()),
        [],
    )
    alone = next((by_name[n] for n in ("Z", "DEPTH") if n in by_name), None)
    if several and ("X" in by_name or alone is None):
        first, *others = several
        alike = all(np.array_equal(first, other, equal_nan=True) for other in others)
        values = first if alike else np.stack(several, axis=-1)
    elif alone is not None or len(stored) == 1:
        values = next(iter(stored.values())) if alone is None else alone
    else:
        held = ", ".join(list(stored)[:8]) or "none"
        raise LociError(f"{shown(source)}: channels {held}, expected Z, or X, Y and Z")
    return np.where(np.isfinite(values) & (np.abs(values) < FAR), values, np.float32(np.nan))


def _from_depths(source: str | Path, scale: float) -> NDArray[Any]:
    if not scale > 0:
        raise LociError(f"depth scale: {scale:g}, expected more than 0")

    def depths(image: Image.Image, name: str) -> NDArray[Any]:
        if image.mode == "F":
            return np.array(image)
        if not image.mode.startswith("I"):
            raise LociError(f"{name}: pixels of 8 bits or colours, expected depths of 16 bits")
        stored = np.asarray(image).astype(np.float32)
        return np.where(stored > 0, stored / scale, np.nan).astype(np.float32)

    return open_image(source, "pointmap", depths)
