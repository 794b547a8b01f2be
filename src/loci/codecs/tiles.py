"""Tiles of a picture that are computed one after the other, with equal results.

Convolutions see a few pixels to each side. A tile is computed with that much of its surroundings,
which is then dropped: what remains equals the whole picture computed at once, up to rounding.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

MAX_PARTS = 16


class Tile(NamedTuple):
    """A part of a grid: what is computed, and what of that is kept.

    Attributes:
        outer: rows and columns that are computed.
        inner: those of the grid that are kept, without overlap.
    """

    outer: tuple[slice, slice]
    inner: tuple[slice, slice]

    def scaled(self, factor: int) -> tuple[slice, slice]:
        """`outer` on a grid that is so many times finer."""
        rows, columns = (slice(s.start * factor, s.stop * factor) for s in self.outer)
        return rows, columns

    def kept(self, factor: int = 1) -> tuple[slice, slice]:
        """Where `inner` lies within a result for `outer`, so many times finer."""
        rows, columns = (
            slice((i.start - o.start) * factor, (i.stop - o.start) * factor)
            for o, i in zip(self.outer, self.inner, strict=True)
        )
        return rows, columns


def tiles(height: int, width: int, halo: int, most: int) -> list[Tile]:
    """Tiles of a grid, of at most so many cells where that is possible, with the least work.

    Args:
        height: of the grid.
        width: of the grid.
        halo: cells to each side that results depend on.
        most: cells of a tile, with its surroundings.
    """

    def areas(counts: tuple[int, int]) -> tuple[int, int]:
        """Cells of the largest tile, and of all."""
        outer = [
            [stop - start for (start, stop), _ in _parts(side, count, halo)]
            for side, count in zip((height, width), counts, strict=True)
        ]
        return max(outer[0]) * max(outer[1]), sum(outer[0]) * sum(outer[1])

    counts = [
        (rows, columns)
        for rows, columns in product(range(1, MAX_PARTS + 1), repeat=2)
        if rows <= height and columns <= width
    ]
    fitting = [each for each in counts if areas(each)[0] <= most]
    best = min(fitting, key=lambda c: areas(c)[1]) if fitting else min(counts, key=areas)
    return [
        Tile(
            (slice(*rows[0]), slice(*columns[0])),
            (slice(*rows[1]), slice(*columns[1])),
        )
        for rows in _parts(height, best[0], halo)
        for columns in _parts(width, best[1], halo)
    ]


def _parts(side: int, count: int, halo: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(outer, inner) of the parts of one side."""
    ends = [side * part // count for part in range(count + 1)]
    return [
        ((max(0, start - halo), min(side, stop + halo)), (start, stop))
        for start, stop in zip(ends[:-1], ends[1:], strict=True)
    ]
