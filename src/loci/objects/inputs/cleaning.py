"""Validates and cleans masks: drops specks, fills pinholes, refuses what is no object."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loci.errors import LociError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

MIN_MASK_SIZE = 3
"""Pixels of the longer side of a mask's bounding box."""
MIN_ISLAND = 0.01
"""Share of the mask's area: parts that are smaller and not connected to the rest are dropped."""
MAX_PINHOLE = 0.001
"""Share of the mask's area: smaller holes are filled. Larger ones may be between slats or in
handles."""
MAX_EDGE = 0.9
"""The largest share of the picture's edge that a mask may cover; more, and it is a background."""
MIN_OVERLAP = 0.05
"""Two masks that overlap by this share of the smaller one are mentioned."""


class CleanedMask(NamedTuple):
    """A mask and what was done to it, in one line each."""

    inside: Bool[np.ndarray, "h w"]
    notes: tuple[str, ...]


def clean_mask(inside: Bool[np.ndarray, "h w"], name: str = "mask") -> CleanedMask:
    """Drops islands of less than `MIN_ISLAND` of the area and fills holes of less than
    `MAX_PINHOLE`, as segmenters leave them. Pixels that touch at a corner are connected.

    A clean mask is returned as it is, and mentioned where it has several parts.
    """
    area = int(inside.sum())
    labels, sizes = components(inside)
    small = sizes < MIN_ISLAND * area
    small[sizes.argmax()] = False
    cleaned, done = inside, []
    if small.any():
        dropped = np.append(small, False)[labels]
        cleaned = inside & ~dropped
        done.append(f"dropped {_counted(small.sum(), 'island')} ({_pixels(dropped.sum())})")
    holes = _holes(cleaned, max(1, int(MAX_PINHOLE * area)))
    if holes is not None:
        labels_of_holes, number = holes
        cleaned = cleaned | labels_of_holes
        done.append(f"filled {_counted(number, 'pinhole')} ({_pixels(labels_of_holes.sum())})")
    notes = [f"{name}: {' and '.join(done)}"] if done else []
    parts = int((~small).sum())
    if parts > 1:
        share = sizes.max() / sizes[~small].sum()
        notes.append(f"{name}: in {parts} parts, the largest of {share:.0%}; all are kept")
    return CleanedMask(cleaned, tuple(notes))


def check_mask(
    inside: Bool[np.ndarray, "h w"], pixels: NDArray[np.uint8], name: str = "mask"
) -> CleanedMask:
    """The mask of an object in a picture, cleaned.

    Args:
        inside: True on the object, not empty.
        pixels: of the picture.
        name: what messages call the mask.

    Raises:
        LociError: when it is not as large as its picture, too small or too thin to be an object's,
            or covers the picture's edge all around.
    """
    size, expected = inside.shape, pixels.shape[:2]
    if size != expected:
        raise LociError(
            f"{name}: {size[1]} x {size[0]}, expected {expected[1]} x {expected[0]} as the "
            "picture (upright, as its EXIF says)"
        )
    if inside.all():
        raise LociError(f"{name}: covers the whole picture, expected an object in it")
    edge = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
    if edge.mean() > MAX_EDGE:
        raise LociError(
            f"{name}: covers the picture's edge all around, expected an object inside; is the mask "
            "inverted?"
        )
    cleaned = clean_mask(inside, name)
    if max(int(np.ptp(places)) + 1 for places in np.nonzero(cleaned.inside)) < MIN_MASK_SIZE:
        raise LociError(f"{name}: an object too small, expected {MIN_MASK_SIZE} pixels across")
    x = cleaned.inside
    if not (x[1:, 1:] & x[1:, :-1] & x[:-1, 1:] & x[:-1, :-1]).any():
        raise LociError(f"{name}: a line one pixel wide, expected an object")
    return cleaned


def overlaps(masks: list[Bool[np.ndarray, "h w"]], names: list[str]) -> list[str]:
    """A line for every two masks that overlap, for the user."""
    notes, areas = [], [int(mask.sum()) for mask in masks]
    for second in range(len(masks)):
        for first in range(second):
            both = int((masks[first] & masks[second]).sum())
            share = both / min(areas[first], areas[second])
            if share > MIN_OVERLAP:
                notes.append(
                    f"{names[first]} and {names[second]}: overlap in {share:.0%} of the smaller; a "
                    "mask covers what is visible of one object"
                )
    return notes


def touches_edge(inside: Bool[np.ndarray, "h w"], border: int = 1) -> bool:
    """Whether a mask comes within `border` pixels of the picture's edge, so that part of the object
    may be cut off."""
    edges = (inside[:border], inside[-border:], inside[:, :border], inside[:, -border:])
    return any(bool(edge.any()) for edge in edges)


def components(
    inside: Bool[np.ndarray, "h w"], corners: bool = True
) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "n"]]:
    """Connected components: the number of each pixel's, -1 outside, and their areas.

    Args:
        inside: not empty.
        corners: whether pixels that touch at a corner are connected.
    """
    height, width = inside.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = inside
    change = np.diff(padded, axis=1)
    # Runs of pixels, row after row: columns start <= x < end.
    rows, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    reach = 1 if corners else 0
    bounds = np.searchsorted(rows, np.arange(height + 1)).tolist()
    first, last = starts.tolist(), ends.tolist()
    for (a, b), (_, end) in pairwise(pairwise(bounds)):
        above, here = a, b
        while above < b and here < end:
            if first[above] < last[here] + reach and first[here] < last[above] + reach:
                parent[root(here)] = root(above)
            if last[above] < last[here]:
                above += 1
            else:
                here += 1
    _, numbers = np.unique([root(run) for run in range(len(parent))], return_inverse=True)
    lengths = ends - starts
    labels = np.full(inside.size, -1)
    labels[inside.ravel()] = np.repeat(numbers, lengths)
    return labels.reshape(inside.shape), np.bincount(numbers, lengths).astype(np.int64)


def _holes(
    inside: Bool[np.ndarray, "h w"], limit: int
) -> tuple[Bool[np.ndarray, "h w"], int] | None:
    """The pixels of holes of at most `limit` pixels, and how many they are."""
    outside = ~inside
    if limit < 1 or not outside.any():
        return None
    labels, sizes = components(outside, corners=False)
    small = sizes <= limit
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[edge[edge >= 0]] = False
    return (np.append(small, False)[labels], int(small.sum())) if small.any() else None


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _pixels(number: int) -> str:
    return _counted(int(number), "pixel")
