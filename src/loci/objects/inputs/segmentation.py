"""Segmentation of one object from a box around it or a point on it, by colour (GrabCut)."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from loci.errors import LociError, install_hint

WORKING_SIZE = 320
"""Longer side in pixels at which pictures are segmented; GrabCut takes minutes on large ones."""
ITERATIONS = 4
DISC, RIM = 0.02, 0.01
"""Radius around a point that is certainly inside, and width of the picture's rim that is certainly
outside, relative to the longer side."""
LENGTH, CHANGE = 600.0, 0.125
"""Cost of a path across the longer side, and factor of the colour gradient (Sobel, in Lab) that is
added at every pixel."""
MIN_SIZE = 4
"""Pixels of the longer side of a segmented object's bounding box, at the working size."""
MAX_SHARE = 0.97
"""The largest share of the picture that a segmented object may cover."""

Pixels = UInt8[np.ndarray, "h w 3"]
Inside = Bool[np.ndarray, "h w"]


def mask_from_box(pixels: Pixels, box: tuple[int, int, int, int]) -> Inside:
    """The object that fills a box.

    Args:
        pixels: RGB.
        box: columns x0 <= x < x1 and rows y0 <= y < y1; everything outside is background.

    Raises:
        LociError: when the box is not inside the picture, leaves no background, or contains no
            distinct object.
    """
    name, (x0, y0, x1, y1) = check_box(pixels, box), box
    height, width = pixels.shape[:2]
    if (x1 - x0) * (y1 - y0) > 0.99 * width * height:
        raise LociError(f"{name}: expected some background around it")
    small, zoom = _downscaled(pixels)
    hints = np.zeros(small.shape[:2], np.uint8)
    left, top = int(x0 * zoom), int(y0 * zoom)
    right, bottom = max(round(x1 * zoom), left + 1), max(round(y1 * zoom), top + 1)
    hints[top:bottom, left:right] = import_cv2().GC_PR_FGD
    inside = _largest(_grabcut(small, hints))
    return _upscaled(inside, pixels, name)


def check_box(pixels: Pixels, box: tuple[int, int, int, int]) -> str:
    """The name of a box in messages. Raises LociError when it is not inside the picture."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise LociError(
            f"box {x0} {y0} {x1} {y1}: expected x0 < x1 and y0 < y1 inside the picture of "
            f"{width} x {height}"
        )
    return f"box {x0} {y0} {x1} {y1}"


def check_point(pixels: Pixels, point: tuple[int, int]) -> str:
    """The name of a point in messages. Raises LociError when it is not inside the picture."""
    height, width = pixels.shape[:2]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise LociError(f"point {x} {y}: expected inside the picture of {width} x {height}")
    return f"point {x} {y}"


def mask_from_point(pixels: Pixels, point: tuple[int, int]) -> Inside:
    """The object at a point.

    Pixels that are geodesically closer to the point than to the picture's edge, along paths that
    avoid changes of colour, start GrabCut; the result is its component at the point.

    Args:
        pixels: RGB.
        point: column x and row y of a pixel on the object.

    Raises:
        LociError: when the point is not inside the picture, or there is no distinct object.
    """
    name, (x, y) = check_point(pixels, point), point
    small, zoom = _downscaled(pixels)
    rows, columns = np.mgrid[0 : small.shape[0], 0 : small.shape[1]] + 0.5
    distance = np.hypot(columns - (x + 0.5) * zoom, rows - (y + 0.5) * zoom)
    inside = _component(_grabcut(small, _point_hints(small, distance)), distance.argmin())
    return _upscaled(inside, pixels, name)


def _point_hints(pixels: Pixels, distance: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Hints for GrabCut, from every pixel's distance to the point."""
    cv2, side = import_cv2(), max(pixels.shape[:2])
    inside = distance <= max(1.0, DISC * side)
    outside = np.ones_like(inside)
    rim = max(1, round(RIM * side))
    outside[rim:-rim, rim:-rim] = False
    cost = LENGTH / side + CHANGE * _color_gradient(pixels)
    closer = _geodesic_distance(inside, cost) < _geodesic_distance(outside, cost)
    hints = np.where(closer, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    hints[outside], hints[inside] = cv2.GC_BGD, cv2.GC_FGD
    return hints


def _color_gradient(pixels: Pixels) -> Float[np.ndarray, "h w"]:
    """Its magnitude at each pixel, after a median filter against grain."""
    cv2 = import_cv2()
    lab = cv2.cvtColor(cv2.medianBlur(pixels, 5), cv2.COLOR_RGB2LAB).astype(np.float32)
    gradients = [cv2.Sobel(lab, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))]
    return np.linalg.norm(np.concatenate(gradients, axis=2), axis=2).astype(np.float64)


def _geodesic_distance(start: Inside, cost: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The cost of the cheapest path from any `start` pixel, along rows and columns."""
    try:
        from skimage.graph import MCP_Geometric
    except ImportError as error:
        raise _missing("scikit-image") from error
    distance, _ = MCP_Geometric(cost, fully_connected=False).find_costs(np.argwhere(start))
    return np.ascontiguousarray(distance)


def _grabcut(pixels: Pixels, hints: UInt8[np.ndarray, "h w"]) -> Inside:
    cv2 = import_cv2()
    cv2.setRNGSeed(0)  # its clusters are initialised at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    try:
        cv2.grabCut(bgr, hints, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return np.zeros(hints.shape, bool)  # it fails where all colours are alike
    return (hints == cv2.GC_FGD) | (hints == cv2.GC_PR_FGD)


def _without_holes(inside: Inside) -> Inside:
    background = np.pad(~inside, 1, constant_values=True)
    return inside | ~_component(background, 0)[1:-1, 1:-1]


def _largest(inside: Inside) -> Inside:
    """The largest connected component."""
    labels = _labels(inside)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (labels == sizes.argmax()) & inside


def _component(inside: Inside, pixel: Any) -> Inside:
    """The connected component of a pixel, given by its flat index."""
    labels = _labels(inside)
    return (labels == labels.ravel()[pixel]) & inside


def _labels(inside: Inside) -> Int[np.ndarray, "h w"]:
    return import_cv2().connectedComponents(inside.astype(np.uint8))[1]


def _downscaled(pixels: Pixels) -> tuple[Pixels, float]:
    cv2, side = import_cv2(), max(pixels.shape[:2])
    zoom = min(1.0, WORKING_SIZE / side)
    height, width = (max(1, round(n * zoom)) for n in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), zoom


def _upscaled(inside: Inside, pixels: Pixels, name: str) -> Inside:
    """The mask without holes, at the picture's size.

    Raises:
        LociError: when it is nearly empty or covers nearly everything.
    """
    cv2, (height, width) = import_cv2(), pixels.shape[:2]
    size = max(
        (int(np.ptp(indices)) + 1 for indices in np.nonzero(inside) if len(indices)), default=0
    )
    if size < MIN_SIZE or inside.mean() > MAX_SHARE:
        raise LociError(f"{name}: no object found there; give a --mask")
    filled = _without_holes(inside).astype(np.float32)
    return cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5


def import_cv2() -> Any:
    """OpenCV. Raises LociError, with the extra to install, when it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise _missing("OpenCV") from error
    return cv2


def _missing(package: str) -> LociError:
    return LociError(f"segmentation needs {package}: {install_hint('objects')}, or give a --mask")
