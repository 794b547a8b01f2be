"""Tile-based rasterisation of splats in plain torch, with its gradient."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.geometry.gaussians.projection import MAX_ALPHA, MIN_ALPHA, Splats

TILE_SIDES = (4, 8, 16)
"""To choose from, in pixels."""
PAIR_COST = 12
"""Cost of a splat in a tile besides its pixels, in pixels."""
BATCH = 1 << 16
"""Splats times pixels that are processed at once: few enough for the CPU's cache."""


class PixelBounds(NamedTuple):
    """Bounding boxes of the splats that touch any pixel, all `[m]`: their indices (`rows`), and
    columns `left` to `right` and rows `top` to `bottom`, inclusive."""

    rows: Int[Tensor, "m"]
    left: Int[Tensor, "m"]
    right: Int[Tensor, "m"]
    top: Int[Tensor, "m"]
    bottom: Int[Tensor, "m"]


class Tiling(NamedTuple):
    """Pairs of a splat and a tile it overlaps.

    Attributes:
        side: of a tile, in pixels.
        shape: rows and columns of tiles.
        splat: of each pair, sorted by tile, then from near to far, `[p]`.
        tile: of each pair, ascending, `[p]`.
    """

    side: int
    shape: tuple[int, int]
    splat: Int[Tensor, "p"]
    tile: Int[Tensor, "p"]


@torch.no_grad()
def tile_splats(splats: Splats, height: int, width: int) -> Tiling:
    """Assigns splats to tiles, of the size that is cheapest."""
    reach = pixel_bounds(splats, height, width)
    side = min(TILE_SIDES, key=lambda side: _pairs(reach, side) * (side * side + PAIR_COST))
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
    """The bounding box of the ellipse in which alpha is at least `MIN_ALPHA`."""
    level = 2 * torch.log(splats.opacities / MIN_ALPHA)
    half = (level.clamp(min=0)[:, None] * splats.covariances[:, ::2]).sqrt() * 1.001 + 1e-3
    low = (splats.centers - half - 0.5).ceil().clamp(min=0)
    high = (splats.centers + half - 0.5).floor()
    high = torch.minimum(high, high.new_tensor([width - 1, height - 1]))
    rows = ((level > 0) & (low <= high).all(1)).nonzero()[:, 0]
    (left, top), (right, bottom) = low[rows].long().unbind(1), high[rows].long().unbind(1)
    return PixelBounds(rows, left, right, top, bottom)


def batches(tiling: Tiling) -> Iterator[tuple[Int[Tensor, "t"], Int[Tensor, "t k"]]]:
    """Batches of tiles with similar numbers of splats, and their pairs, padded with p."""
    tiles, count = torch.unique_consecutive(tiling.tile, return_counts=True)
    start = count.cumsum(0) - count
    order = count.argsort(descending=True)
    counts = count[order].tolist()
    first = 0
    while first < len(counts):
        most = counts[first]
        last = first + max(1, BATCH // (most * tiling.side**2))
        here = order[first:last]
        step = torch.arange(most, device=here.device)
        pairs = start[here, None] + step
        yield tiles[here], pairs.masked_fill_(step >= count[here, None], len(tiling.tile))
        first = last


def _pairs(reach: PixelBounds, side: int) -> int:
    across = reach.right // side - reach.left // side + 1
    down = reach.bottom // side - reach.top // side + 1
    return int((across * down).sum())


PADDING_LOG = -1e4
"""Log alpha of padding."""
MIN_LOG = math.log(MIN_ALPHA) - 1
"""Lower log alphas are 0 all the same; exponentials that are subnormal numbers are slow."""


def composite_tiles(splats: Splats, height: int, width: int) -> Float[Tensor, "5 h w"]:
    """The same as `composite_reference`, by tiles."""
    tiling = tile_splats(splats, height, width)
    polynomials, features = _by_pair(splats, tiling)
    down, across = tiling.shape
    sums = _Composite.apply(polynomials, features, tiling)
    sums = sums.view(down, across, 5, tiling.side, tiling.side).permute(2, 0, 3, 1, 4)
    return sums.reshape(5, down * tiling.side, across * tiling.side)[:, :height, :width]


def monomials(side: int, like: Tensor) -> Float[Tensor, "6 p"]:
    """1, x, y, x^2, xy, y^2 at a tile's pixel centres, row by row, from its middle."""
    step = torch.arange(side).to(like) + 0.5 - side / 2
    x, y = step.repeat(side), step.repeat_interleave(side)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def _by_pair(splats: Splats, tiling: Tiling) -> tuple[Float[Tensor, "p 6"], Float[Tensor, "p 5"]]:
    """For each pair the log alpha as coefficients of `monomials`, and RGB, 1 and depth."""
    table = torch.cat(
        [
            splats.centers,
            splats.conics,
            splats.opacities.clamp(min=1e-12).log()[:, None],
            splats.colors,
            torch.ones_like(splats.depths)[:, None],
            splats.depths[:, None],
        ],
        dim=1,
    )
    table = table.index_select(0, tiling.splat)
    center, conic, log_opacity, features = table.split([2, 3, 1, 5], dim=1)
    down, across = (torch.arange(tiles).to(center) + 0.5 for tiles in tiling.shape)
    middles = torch.cartesian_prod(down, across).flip(1) * tiling.side
    x, y = (center - middles.index_select(0, tiling.tile)).unbind(1)
    xx, xy, yy = conic.unbind(1)
    along, down = xx * x + xy * y, xy * x + yy * y
    constant = log_opacity[:, 0] - (x * along + y * down) / 2
    return torch.stack([constant, along, down, -xx / 2, -xy, -yy / 2], dim=1), features


class _Composite(torch.autograd.Function):
    """Polynomials and features of pairs, `[p, 6]` and `[p, 5]`, to `[tiles, 5, side^2]`.

    With alpha_k from the polynomial, transmittance T_k after k splats and features f_k:
    w_k = T_k-1 - T_k, output = sum_k w_k f_k. Backwards, with h_k the output's gradient along f_k:
    d output / d alpha_k = T_k-1 h_k - sum_(j>k) w_j h_j / (1 - alpha_k).
    """

    @staticmethod
    def forward(ctx: Any, polynomials: Tensor, features: Tensor, tiling: Tiling) -> Tensor:
        basis = monomials(tiling.side, polynomials)
        padding = polynomials.new_tensor([[PADDING_LOG, 0, 0, 0, 0, 0]])
        polynomials = torch.cat([polynomials, padding])
        features = torch.cat([features, features.new_zeros(1, 5)])
        tiles = tiling.shape[0] * tiling.shape[1]
        sums = polynomials.new_zeros(tiles, 5, basis.shape[1])
        saved = []
        for tile, pairs in batches(tiling):
            rows = pairs.flatten()
            free = (polynomials.index_select(0, rows) @ basis).clamp_(min=MIN_LOG).exp_()
            free = torch.threshold_(free, MIN_ALPHA, 0).clamp_(max=MAX_ALPHA).neg_().add_(1)
            free = free.view(*pairs.shape, -1)
            after = torch.cumprod(free, dim=1)
            feature = features.index_select(0, rows).view(*pairs.shape, 5)
            sums[tile] = torch.bmm(feature.transpose(1, 2), _weights(after))
            saved.append((tile, rows, free, after, feature))
        ctx.saved, ctx.basis, ctx.count = saved, basis, len(features)
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        to_polynomials = gradient.new_empty(ctx.count, 6)
        to_features = gradient.new_empty(ctx.count, 5)
        for tile, rows, free, after, feature in ctx.saved:
            by_pixel = gradient[tile]
            weights = _weights(after)
            by_feature = torch.bmm(weights, by_pixel.transpose(1, 2))
            to_features.index_copy_(0, rows, by_feature.flatten(0, 1))
            along = torch.bmm(feature, by_pixel)
            behind = torch.cumsum(weights.mul_(along), dim=1)
            behind = behind[:, -1:] - behind
            before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
            to_alpha = before.mul_(along).sub_(behind.div_(free))
            to_log = to_alpha.mul_(1 - free)
            # No gradient through clipped alphas.
            to_log = torch.ops.aten.threshold_backward(to_log, free, (1 - MAX_ALPHA) * 1.0001)
            to_polynomials.index_copy_(0, rows, to_log.flatten(0, 1) @ ctx.basis.T)
        return to_polynomials[:-1], to_features[:-1], None


def _weights(after: Float[Tensor, "t k p"]) -> Float[Tensor, "t k p"]:
    """Compositing weights, from the transmittance after each splat."""
    weights = torch.empty_like(after)
    torch.sub(after[:, :-1], after[:, 1:], out=weights[:, 1:])
    torch.sub(1, after[:, :1], out=weights[:, :1])
    return weights


class PixelWeights(NamedTuple):
    """How much each splat contributes to each pixel, `[q]` of each: the pixel, row by row, the
    splat as numbered in `Splats`, and the weight in (0, 1]."""

    pixel: Int[Tensor, "q"]
    splat: Int[Tensor, "q"]
    weight: Float[Tensor, "q"]


@torch.no_grad()
def pixel_weights(
    splats: Splats, height: int, width: int, least: float = MIN_ALPHA
) -> PixelWeights:
    """The weights with which `composite_tiles` sums colours; those up to `least` are left out."""
    tiling = tile_splats(splats, height, width)
    polynomials, _ = _by_pair(splats, tiling)
    basis = monomials(tiling.side, polynomials)
    polynomials = torch.cat([polynomials, polynomials.new_tensor([[PADDING_LOG, 0, 0, 0, 0, 0]])])
    step = torch.arange(tiling.side, device=basis.device)
    down, across = step.repeat_interleave(tiling.side), step.repeat(tiling.side)
    found = []
    for tile, pairs in batches(tiling):
        logs = polynomials[pairs.flatten()] @ basis
        alpha = torch.threshold_(logs.clamp_(min=MIN_LOG).exp_(), MIN_ALPHA, 0)
        alpha = alpha.clamp_(max=MAX_ALPHA).view(*pairs.shape, -1)
        weights = _weights(torch.cumprod(1 - alpha, dim=1))
        row, order, place = (weights > least).nonzero(as_tuple=True)
        top = torch.div(tile, tiling.shape[1], rounding_mode="floor") * tiling.side
        left = tile % tiling.shape[1] * tiling.side
        y, x = top[row] + down[place], left[row] + across[place]
        drawn = (y < height) & (x < width)
        splat = tiling.splat[pairs[row, order][drawn]]
        found.append(((y * width + x)[drawn], splat, weights[row, order, place][drawn]))
    if not found:
        none = torch.zeros(0, dtype=torch.long, device=basis.device)
        return PixelWeights(none, none, basis.new_zeros(0))
    return PixelWeights(*(torch.cat(part) for part in zip(*found, strict=True)))
