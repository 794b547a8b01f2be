"""Which Gaussians touch which tile of the screen, near to far, in pieces that fit the cache."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.geometry.gaussians.projection import LEAST_ALPHA, MOST_ALPHA, Splats

SIDES = (4, 8, 16)
"""Tile sides to choose from, in pixels."""
PAIR_COST = 12
"""What a Gaussian in a tile costs besides its pixels, counted in pixels."""
PIECE = 1 << 16
"""Gaussians times pixels that are worked on at once."""


class PixelBounds(NamedTuple):
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
    reach = pixel_bounds(splats, height, width)
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


def pixel_bounds(splats: Splats, height: int, width: int) -> PixelBounds:
    """The box around the ellipse in which a Gaussian covers at least `LEAST_ALPHA`."""
    level = 2 * torch.log(splats.opacities / LEAST_ALPHA)
    half = (level.clamp(min=0)[:, None] * splats.covariances[:, ::2]).sqrt() * 1.001 + 1e-3
    low = (splats.centres - half - 0.5).ceil().clamp(min=0)
    high = (splats.centres + half - 0.5).floor()
    high = torch.minimum(high, high.new_tensor([width - 1, height - 1]))
    rows = ((level > 0) & (low <= high).all(1)).nonzero()[:, 0]
    (left, top), (right, bottom) = low[rows].long().unbind(1), high[rows].long().unbind(1)
    return PixelBounds(rows, left, right, top, bottom)


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


def _pairs(reach: PixelBounds, side: int) -> int:
    across = reach.right // side - reach.left // side + 1
    down = reach.bottom // side - reach.top // side + 1
    return int((across * down).sum())


INVISIBLE = -1e4
"""The logarithm of the coverage by a Gaussian that is not there."""
LEAST_LOG = math.log(LEAST_ALPHA) - 1
"""Lower ones end up as no coverage too; exponentials that are hardly numbers are slow."""


def composite_tiles(splats: Splats, height: int, width: int) -> Float[Tensor, "5 h w"]:
    """The same sums as `composite_reference`, from those pairs only that matter."""
    tiling = tile_splats(splats, height, width)
    polynomials, given = _by_pair(splats, tiling)
    down, across = tiling.shape
    sums = _Composite.apply(polynomials, given, tiling)
    sums = sums.view(down, across, 5, tiling.side, tiling.side).permute(2, 0, 3, 1, 4)
    return sums.reshape(5, down * tiling.side, across * tiling.side)[:, :height, :width]


def monomials(side: int, like: Tensor) -> Float[Tensor, "6 p"]:
    """1, x, y, x^2, xy, y^2 at a tile's pixel centres, row by row, from its middle."""
    step = torch.arange(side).to(like) + 0.5 - side / 2
    x, y = step.repeat(side), step.repeat_interleave(side)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def _by_pair(splats: Splats, tiling: Tiling) -> tuple[Float[Tensor, "p 6"], Float[Tensor, "p 5"]]:
    """For each pair the coefficients of `monomials`, and what the Gaussian gives to a pixel."""
    table = torch.cat(
        [
            splats.centres,
            splats.conics,
            splats.opacities.clamp(min=1e-12).log()[:, None],
            splats.colors,
            torch.ones_like(splats.depths)[:, None],
            splats.depths[:, None],
        ],
        dim=1,
    )
    table = table.index_select(0, tiling.splat)
    centre, conic, log_opacity, given = table.split([2, 3, 1, 5], dim=1)
    down, across = (torch.arange(tiles).to(centre) + 0.5 for tiles in tiling.shape)
    middles = torch.cartesian_prod(down, across).flip(1) * tiling.side
    x, y = (centre - middles.index_select(0, tiling.tile)).unbind(1)
    xx, xy, yy = conic.unbind(1)
    along, down = xx * x + xy * y, xy * x + yy * y
    constant = log_opacity[:, 0] - (x * along + y * down) / 2
    return torch.stack([constant, along, down, -xx / 2, -xy, -yy / 2], dim=1), given


class _Composite(torch.autograd.Function):
    """Polynomials and gifts of pairs, `[p, 6]` and `[p, 5]`, to sums by tile `[tiles, 5, side^2]`.

    With alpha_k from the polynomial, T_k what is left after k Gaussians and g_k the gift:
    w_k = T_k-1 - T_k, sums = sum_k w_k g_k. Backwards, with h_k the gradient of sums along g_k:
    d sums / d alpha_k = T_k-1 h_k - sum_(j>k) w_j h_j / (1 - alpha_k).
    """

    @staticmethod
    def forward(ctx: Any, polynomials: Tensor, given: Tensor, tiling: Tiling) -> Tensor:
        places = monomials(tiling.side, polynomials)
        nothing = polynomials.new_tensor([[INVISIBLE, 0, 0, 0, 0, 0]])
        polynomials = torch.cat([polynomials, nothing])
        given = torch.cat([given, given.new_zeros(1, 5)])
        tiles = tiling.shape[0] * tiling.shape[1]
        sums = polynomials.new_zeros(tiles, 5, places.shape[1])
        kept = []
        for tile, pairs in pieces(tiling):
            rows = pairs.flatten()
            free = (polynomials.index_select(0, rows) @ places).clamp_(min=LEAST_LOG).exp_()
            free = torch.threshold_(free, LEAST_ALPHA, 0).clamp_(max=MOST_ALPHA).neg_().add_(1)
            free = free.view(*pairs.shape, -1)
            left = torch.cumprod(free, dim=1)
            gift = given.index_select(0, rows).view(*pairs.shape, 5)
            sums[tile] = torch.bmm(gift.transpose(1, 2), _weights(left))
            kept.append((tile, rows, free, left, gift))
        ctx.kept, ctx.places, ctx.count = kept, places, len(given)
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        to_polynomials = gradient.new_empty(ctx.count, 6)
        to_given = gradient.new_empty(ctx.count, 5)
        for tile, rows, free, left, gift in ctx.kept:
            upon = gradient[tile]
            weights = _weights(left)
            to_given.index_copy_(0, rows, torch.bmm(weights, upon.transpose(1, 2)).flatten(0, 1))
            along = torch.bmm(gift, upon)
            behind = torch.cumsum(weights.mul_(along), dim=1)
            behind = behind[:, -1:] - behind
            before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
            to_alpha = before.mul_(along).sub_(behind.div_(free))
            to_log = to_alpha.mul_(1 - free)
            # No gradient through a coverage that is held at its most.
            to_log = torch.ops.aten.threshold_backward(to_log, free, (1 - MOST_ALPHA) * 1.0001)
            to_polynomials.index_copy_(0, rows, to_log.flatten(0, 1) @ ctx.places.T)
        return to_polynomials[:-1], to_given[:-1], None


def _weights(left: Float[Tensor, "t k p"]) -> Float[Tensor, "t k p"]:
    """What each Gaussian takes of the light, from what is left after it."""
    weights = torch.empty_like(left)
    torch.sub(left[:, :-1], left[:, 1:], out=weights[:, 1:])
    torch.sub(1, left[:, :1], out=weights[:, :1])
    return weights
