"""Which Gaussians touch which tile of the screen, near to far, in pieces that fit the cache."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from loci.geometry.splat_projection import LEAST_ALPHA, Splats

SIDES = (4, 8, 16)
"""Tile sides to choose from, in pixels."""
PAIR_COST = 12
"""What a Gaussian in a tile costs besides its pixels, counted in pixels."""
PIECE = 1 << 16
"""Gaussians times pixels that are worked on at once."""


class Reach(NamedTuple):
    """Pixels a Gaussian touches: columns `left` to `right` and rows `top` to `bottom`, inclusive;
    `rows` are those of the splats that touch any, all `[m]`."""

    rows: Int[Tensor, "m"]
    left: Int[Tensor, "m"]
    right: Int[Tensor, "m"]
    top: Int[Tensor, "m"]
    bottom: Int[Tensor, "m"]


class Tiling(NamedTuple):
    """Gaussians laid out by tile.

    Attributes:
        side: of a tile, in pixels.
        shape: tiles down and across.
        splat: the Gaussian of each pair, tile by tile and near to far within one, `[p]`.
        tile: the tile of each pair, ascending, `[p]`.
    """

    side: int
    shape: tuple[int, int]
    splat: Int[Tensor, "p"]
    tile: Int[Tensor, "p"]


@torch.no_grad()
def tile_splats(splats: Splats, height: int, width: int) -> Tiling:
    """Pairs of a Gaussian and a tile that hold every pixel the Gaussian covers visibly."""
    reach = reach_of(splats, height, width)
    side = min(SIDES, key=lambda side: _pairs(reach, side) * (side * side + PAIR_COST))
    shape = (-(-height // side), -(-width // side))
    left, top = reach.left // side, reach.top // side
    across, down = reach.right // side - left + 1, reach.bottom // side - top + 1
    count = across * down
    row = torch.repeat_interleave(count)
    within = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    step_down = torch.div(within, across[row], rounding_mode="floor")
    tile = (top[row] + step_down) * shape[1] + left[row] + within - step_down * across[row]
    small = torch.int16 if shape[0] * shape[1] < 1 << 15 else torch.int32
    tile, order = torch.sort(tile.to(small), stable=True)
    return Tiling(side, shape, reach.rows[row[order]], tile.long())


def reach_of(splats: Splats, height: int, width: int) -> Reach:
    """The box around the ellipse in which a Gaussian covers at least `LEAST_ALPHA`."""
    level = 2 * torch.log(splats.opacities / LEAST_ALPHA)
    half = (level.clamp(min=0)[:, None] * splats.covariances[:, ::2]).sqrt() * 1.001 + 1e-3
    low = (splats.centres - half - 0.5).ceil().clamp(min=0)
    high = (splats.centres + half - 0.5).floor()
    high = torch.minimum(high, high.new_tensor([width - 1, height - 1]))
    rows = ((level > 0) & (low <= high).all(1)).nonzero()[:, 0]
    (left, top), (right, bottom) = low[rows].long().unbind(1), high[rows].long().unbind(1)
    return Reach(rows, left, right, top, bottom)


def pieces(tiling: Tiling) -> Iterator[tuple[Int[Tensor, "t"], Int[Tensor, "t k"]]]:
    """Tiles with about as many Gaussians each, and their pairs; p where a tile has fewer."""
    tiles, count = torch.unique_consecutive(tiling.tile, return_counts=True)
    start = count.cumsum(0) - count
    order = count.argsort(descending=True)
    counts = count[order].tolist()
    first = 0
    while first < len(counts):
        most = counts[first]
        last = first + max(1, PIECE // (most * tiling.side**2))
        here = order[first:last]
        step = torch.arange(most, device=here.device)
        pairs = start[here, None] + step
        yield tiles[here], pairs.masked_fill_(step >= count[here, None], len(tiling.tile))
        first = last


def _pairs(reach: Reach, side: int) -> int:
    across = reach.right // side - reach.left // side + 1
    down = reach.bottom // side - reach.top // side + 1
    return int((across * down).sum())
