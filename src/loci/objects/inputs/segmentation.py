"""An object cut out on the spot: from a box around it, or from a point on it (GrabCut)."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from loci.errors import LociError

WORKING_SIDE = 320
"""Pixels of the longer side that a picture is cut at: GrabCut takes minutes on large ones."""
ROUNDS = 4
DISC, RIM = 0.02, 0.01
"""What is surely inside around a point, and surely outside at the picture's edge; as parts of the
longer side."""
LENGTH, CHANGE = 600.0, 0.125
"""What a way through the picture costs: so much for the longer side, and this part of how steeply
the colour changes (Sobel, in Lab) at every pixel."""
TURNS = 16
"""How many corners a way may have, at most."""
SMALLEST = 4
"""Pixels across, as worked on, that a cut out object must have."""

Pixels = UInt8[np.ndarray, "h w 3"]
Inside = Bool[np.ndarray, "h w"]


def mask_from_box(pixels: Pixels, box: tuple[int, int, int, int]) -> Inside:
    """The object that fills a box.

    Args:
        pixels: RGB.
        box: columns x0 <= x < x1 and rows y0 <= y < y1; everything outside is background.

    Raises:
        LociError: when the box does not lie in the picture, leaves no background, or nothing in
            it stands out.
    """
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise LociError(
            f"box {x0} {y0} {x1} {y1}: expected x0 < x1 and y0 < y1 inside the picture of "
            f"{width} x {height}"
        )
    if (x1 - x0) * (y1 - y0) > 0.99 * width * height:
        raise LociError(f"box {x0} {y0} {x1} {y1}: expected some background around it")
    small, zoom = _shrunk(pixels)
    hint = np.zeros(small.shape[:2], np.uint8)
    left, top = int(x0 * zoom), int(y0 * zoom)
    right, bottom = max(round(x1 * zoom), left + 1), max(round(y1 * zoom), top + 1)
    hint[top:bottom, left:right] = _cv2().GC_PR_FGD
    inside = _largest(_cut(small, hint))
    return _grown(inside, pixels, f"box {x0} {y0} {x1} {y1}")


def mask_from_point(pixels: Pixels, point: tuple[int, int]) -> Inside:
    """The object at a point: first what is nearer to the point than to the picture's edge, on ways
    that shun changes of colour; then what looks like that and is connected to the point.

    Args:
        pixels: RGB.
        point: column x and row y of a pixel on the object.

    Raises:
        LociError: when the point does not lie in the picture, or no object stands out there.
    """
    height, width = pixels.shape[:2]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise LociError(f"point {x} {y}: expected inside the picture of {width} x {height}")
    small, zoom = _shrunk(pixels)
    rows, columns = np.mgrid[0 : small.shape[0], 0 : small.shape[1]] + 0.5
    distance = np.hypot(columns - (x + 0.5) * zoom, rows - (y + 0.5) * zoom)
    hint = _around(small, distance)
    inside = _connected(_cut(small, hint), distance.argmin())
    return _grown(inside, pixels, f"point {x} {y}")


def _around(pixels: Pixels, distance: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Hints from the distance to a point, in pixels."""
    cv2, side = _cv2(), max(pixels.shape[:2])
    inside = distance <= max(1.0, DISC * side)
    outside = np.ones_like(inside)
    rim = max(1, round(RIM * side))
    outside[rim:-rim, rim:-rim] = False
    cost = LENGTH / side + CHANGE * _steepness(pixels)
    nearer = _ways(inside, cost) < _ways(outside, cost)
    hint = np.where(nearer, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    hint[outside], hint[inside] = cv2.GC_BGD, cv2.GC_FGD
    return hint


def _steepness(pixels: Pixels) -> Float[np.ndarray, "h w"]:
    """How much the colour changes at each pixel; grain does not count."""
    cv2 = _cv2()
    lab = cv2.cvtColor(cv2.medianBlur(pixels, 5), cv2.COLOR_RGB2LAB).astype(np.float32)
    slopes = [cv2.Sobel(lab, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))]
    return np.linalg.norm(np.concatenate(slopes, axis=2), axis=2).astype(np.float64)


def _ways(start: Inside, cost: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """What the cheapest way from any of the `start` costs, by steps along rows and columns."""
    ways = np.where(start, 0.0, 1e9)
    for _ in range(TURNS):
        before = ways
        ways = _along_rows(ways, cost)
        ways = _along_rows(ways.T, cost.T).T
        if np.array_equal(ways, before):
            break
    return ways


def _along_rows(
    ways: Float[np.ndarray, "h w"], cost: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """The cheapest when one may go on to the right, and then to the left."""
    steps = np.zeros_like(cost)
    steps[:, 1:] = np.cumsum((cost[:, 1:] + cost[:, :-1]) / 2, axis=1)
    right = np.minimum(ways, steps + np.minimum.accumulate(ways - steps, axis=1))
    left = np.minimum.accumulate((right + steps)[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(right, left - steps)


def _cut(pixels: Pixels, hint: UInt8[np.ndarray, "h w"]) -> Inside:
    cv2 = _cv2()
    cv2.setRNGSeed(0)  # the clusters it starts from are drawn; the same cut every time
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    try:
        cv2.grabCut(bgr, hint, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return np.zeros(hint.shape, bool)  # it gives up where there is nothing to tell apart
    return (hint == cv2.GC_FGD) | (hint == cv2.GC_PR_FGD)


def _filled(inside: Inside) -> Inside:
    """Without the holes that it encloses."""
    outside = np.pad(~inside, 1, constant_values=True)
    return inside | ~_connected(outside, 0)[1:-1, 1:-1]


def _largest(inside: Inside) -> Inside:
    """Its largest connected piece."""
    _, labels = _cv2().connectedComponents(inside.astype(np.uint8))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (labels == sizes.argmax()) & inside


def _connected(inside: Inside, place: Any) -> Inside:
    """The piece that holds a pixel, given by its flat index."""
    _, labels = _cv2().connectedComponents(inside.astype(np.uint8))
    return (labels == labels.ravel()[place]) & inside


def _shrunk(pixels: Pixels) -> tuple[Pixels, float]:
    cv2, side = _cv2(), max(pixels.shape[:2])
    zoom = min(1.0, WORKING_SIDE / side)
    height, width = (max(1, round(n * zoom)) for n in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), zoom


def _grown(inside: Inside, pixels: Pixels, name: str) -> Inside:
    """At the picture's size.

    Raises:
        LociError: when nothing, or all but everything, is inside.
    """
    cv2, (height, width) = _cv2(), pixels.shape[:2]
    across = max(
        (int(np.ptp(places)) + 1 for places in np.nonzero(inside) if len(places)), default=0
    )
    if across < SMALLEST or inside.mean() > 0.97:
        raise LociError(f"{name}: nothing stands out there, expected an object; give a --mask")
    soft = cv2.resize(
        _filled(inside).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    return soft > 0.5


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise LociError(
            "cutting out needs OpenCV: pip install 'genius-loci[objects]', or give a --mask"
        ) from error
    return cv2
