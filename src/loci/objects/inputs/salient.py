"""Segmentation of the object in a box by a network for salient objects (U2-Net, arXiv 2005.09007).

OpenCV runs it, so that nothing else is needed than the file of its weights, `u2netp.onnx` (4.6 MB):
the one that the package rembg downloads or contains, or one whose path is given.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loci.errors import LociError
from loci.objects.inputs.segmentation import check_box, import_cv2

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8

WEIGHTS = "u2netp.onnx"
SIDE = 320
"""Pixels of the network's square input."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 0.12
"""Margin around the box that the network sees too, relative to the box's sides."""
MIN_SHARE = 0.01
"""The least share of a box that an object covers; less, and it was not found."""


def find_weights(given: Path | None = None) -> Path | None:
    """The file of the weights: the given one, that of rembg's folder or package; None if there is
    none.

    Raises:
        LociError: when a file is given and missing.
    """
    if given is not None:
        if not given.is_file():
            raise LociError(f"{given}: no such file, expected {WEIGHTS}")
        return given
    folders = [Path(os.environ.get("U2NET_HOME", Path.home() / ".u2net"))]
    package = find_spec("rembg")
    folders += map(Path, package.submodule_search_locations or ()) if package else ()
    return next((f / WEIGHTS for f in folders if (f / WEIGHTS).is_file()), None)


def mask_from_box(
    pixels: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int], weights: Path
) -> Bool[np.ndarray, "h w"]:
    """What stands out in a box, clipped to it.

    Args:
        pixels: RGB.
        box: columns x0 <= x < x1 and rows y0 <= y < y1.
        weights: of U2-Net in ONNX.

    Raises:
        LociError: when the box is not inside the picture, the weights cannot be read, or nothing
            stands out.
    """
    name = check_box(pixels, box)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    across, down = round((x1 - x0) * MARGIN), round((y1 - y0) * MARGIN)
    left, top = max(0, x0 - across), max(0, y0 - down)
    right, bottom = min(width, x1 + across), min(height, y1 + down)
    salience = _salience(pixels[top:bottom, left:right], weights)
    inside = np.zeros((height, width), bool)
    inside[top:bottom, left:right] = salience > 0.5
    clipped = np.zeros_like(inside)
    clipped[y0:y1, x0:x1] = inside[y0:y1, x0:x1]
    if clipped.sum() < MIN_SHARE * (x1 - x0) * (y1 - y0):
        raise LociError(f"{name}: no object found there; give a --mask")
    return clipped


def _salience(pixels: UInt8[np.ndarray, "h w 3"], weights: Path) -> Any:
    """In [0, 1], at the size of the picture."""
    cv2 = import_cv2()
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    normalized = (small / max(float(small.max()), 1.0) - MEAN) / STD
    try:
        network = cv2.dnn.readNetFromONNX(str(weights))
        network.setInput(normalized.transpose(2, 0, 1)[None].astype(np.float32))
        # The first output fuses the others.
        salience = network.forward(network.getUnconnectedOutLayersNames()[0])[0, 0]
    except cv2.error as error:
        raise LociError(f"{weights}: cannot be run, expected {WEIGHTS}") from error
    low, high = float(salience.min()), float(salience.max())
    salience = (salience - low) / max(high - low, 1e-6)
    size = (pixels.shape[1], pixels.shape[0])
    return cv2.resize(salience, size, interpolation=cv2.INTER_LINEAR)
