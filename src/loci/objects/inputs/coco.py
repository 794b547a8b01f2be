"""Masks as COCO and SAM write them: run lengths, polygons, and lists of annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from loci.errors import LociError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

EXPECTED = "expected a COCO mask: size and counts, or polygons"
MAX_LISTED = 8
"""Ids of annotations and labels that an error lists."""


def mask_from_coco(
    content: Any, size: tuple[int, int] | None, name: str = "mask", label: int | None = None
) -> Bool[np.ndarray, "h w"]:
    """A mask, True inside.

    Args:
        content: parsed JSON: run lengths {"size": [h, w], "counts": ...} (a list, or compressed),
            polygons [[x, y, x, y, ...], ...], an annotation with either as its "segmentation", or
            a list of annotations (also under "annotations").
        size: height and width of the picture, for polygons.
        name: what an error calls the mask.
        label: the id of the annotation, where there are several.

    Raises:
        LociError: when it is none of these, damaged, or leaves open which annotation is meant.
    """
    content = _annotation(content, name, label)
    if isinstance(content, Mapping) and "segmentation" in content:
        content = content["segmentation"]
    if isinstance(content, Mapping) and {"size", "counts"} <= content.keys():
        return _from_run_lengths(content["size"], content["counts"], name)
    if isinstance(content, Sequence) and content and not isinstance(content, str | bytes):
        return _from_polygons(content, size, name)
    raise LociError(f"{name}: {type(content).__name__}, {EXPECTED}")


def listed(numbers: Sequence[int]) -> str:
    """Numbers for an error, cut where there are many."""
    text = ", ".join(map(str, numbers[:MAX_LISTED]))
    return f"{text}, ..." if len(numbers) > MAX_LISTED else text


def _annotation(content: Any, name: str, label: int | None) -> Any:
    """The annotation that is meant, where there are several."""
    if isinstance(content, Mapping) and isinstance(content.get("annotations"), Sequence):
        content = content["annotations"]
    if not isinstance(content, Sequence) or isinstance(content, str | bytes) or not content:
        return content
    if not all(isinstance(item, Mapping) for item in content):
        return content
    by_id = {item.get("id", number): item for number, item in enumerate(content, start=1)}
    if label is None and len(content) == 1:
        return content[0]
    if label not in by_id:
        asked = "no label" if label is None else f"no annotation {label}"
        raise LociError(f"{name}: {asked}, expected one of {listed([*by_id])}")
    return by_id[label]


def _from_run_lengths(size: Any, counts: Any, name: str) -> Bool[np.ndarray, "h w"]:
    """Runs of outside and inside in turn, down the columns."""
    try:
        height, width = (int(side) for side in size)
        if isinstance(counts, str | bytes):
            counts = _decompressed(counts.encode() if isinstance(counts, str) else counts)
        runs = np.asarray(counts, np.int64)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise LociError(f"{name}: damaged run lengths, {EXPECTED}") from error
    total = int(runs.sum()) if runs.ndim == 1 else -1
    if min(height, width) < 1 or total != height * width or runs.min() < 0:
        raise LociError(f"{name}: run lengths of {total} pixels, expected {height} x {width}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(inside.reshape(width, height).T)


def _decompressed(text: bytes) -> list[int]:
    """COCO's strings: five bits a character, lowest first, then differences to the last but one."""
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            char = text[place] - 48
            if not 0 <= char < 64 or shift > 60:
                raise ValueError("no run length")
            value |= (char & 0x1F) << shift
            more = bool(char & 0x20)
            place, shift = place + 1, shift + 5
            if not more and char & 0x10:
                value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def _from_polygons(
    polygons: Sequence[Any], size: tuple[int, int] | None, name: str
) -> Bool[np.ndarray, "h w"]:
    try:
        flat = [np.asarray(polygon, np.float64).ravel() for polygon in polygons]
    except (TypeError, ValueError) as error:
        raise LociError(f"{name}: no polygons, {EXPECTED}") from error
    if any(len(xy) < 6 or len(xy) % 2 or not np.isfinite(xy).all() for xy in flat):
        raise LociError(f"{name}: no polygons, expected x, y of at least three corners each")
    if size is None:
        raise LociError(f"{name}: polygons, expected the size of the picture too")
    inside = np.zeros(size, bool)
    for xy in flat:
        inside |= _filled(xy.reshape(-1, 2), *size)
    return inside


def _filled(corners: Float[np.ndarray, "n 2"], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centres are inside: an odd number of edges is to the left of them."""
    crossings = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0 or 1.0)
        np.add.at(crossings, (rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)), 1)
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1
