"""Signed distances continued from the active voxels over the grid, so that the surface closes.

The mesh decoder predicts signed distances at the corners of active voxels only, a band along the
surface. Beyond the band every corner is inside or outside as well; where the surface would have to
run along the band's border it would be cut open.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

MARGIN = 1
"""Corners around the box of the known ones, all outside."""
SWEEPS = 40
"""Sweeps of relaxation where the inside is connected to the outside."""


class Continued(NamedTuple):
    """Corners beyond the band: their places, signed distances and attributes."""

    places: Int[Tensor, "m 3"]
    sdf: Float[Tensor, "m"]
    attributes: Float[Tensor, "m k"]


def continued(
    places: Int[Tensor, "n 3"], sdf: Float[Tensor, "n"], attributes: Float[Tensor, "n k"]
) -> Continued:
    """The unknown corners that are inside, and those beside corners that are.

    Unknown corners take the sign of the known ones around them. Where a hole in the band connects
    the inside to the outside, a membrane spans it: signs are relaxed between the known corners and
    a border that is outside.

    Args:
        places: integer coordinates of the known corners, distinct.
        sdf: their signed distances; negative is inside.
        attributes: any values; unknown corners take those of the known ones nearest to them.
    """
    if not len(places):
        return Continued(places, sdf, attributes)
    low = places.amin(0) - MARGIN
    shape = (places.amax(0) - low + 1 + MARGIN).tolist()
    x, y, z = (places - low).unbind(1)
    known = torch.zeros(shape, dtype=torch.bool, device=places.device)
    known[x, y, z] = True
    values = sdf.new_zeros(1 + attributes.shape[1], *shape)
    values[0, x, y, z] = torch.where(sdf < 0, -1.0, 1.0)
    values[1:, x, y, z] = attributes.T
    values = _spread(values, known)
    signs = _relaxed(values[0], known)
    wanted = _grown(torch.where(known, values[0], signs) < 0) & ~known
    at = wanted.nonzero()
    size = sdf.abs().mean()
    return Continued(at + low, signs[wanted] * size, values[1:, wanted].T)


def _spread(values: Float[Tensor, "k x y z"], known: Bool[Tensor, "x y z"]) -> Tensor:
    """Unknown values as the means of their neighbours, layer by layer from the known ones."""
    reached = known.to(values)[None]
    values = values * reached
    while True:
        sums = _sums(torch.cat([values, reached]))
        total = sums[-1:]
        new = (reached == 0) & (total > 0)
        if not new.any():
            return values
        values = torch.where(new, sums[:-1] / total.clamp(min=1e-12), values)
        reached = torch.where(new, torch.ones_like(reached), reached)


def _relaxed(signs: Float[Tensor, "x y z"], known: Bool[Tensor, "x y z"]) -> Tensor:
    """Signs of the unknown corners, relaxed between the known ones and the border."""
    border = torch.ones_like(known)
    border[1:-1, 1:-1, 1:-1] = False
    fixed = known | border
    signs = torch.where(border & ~known, torch.ones_like(signs), signs.sign())
    start = torch.where(signs == 0, torch.ones_like(signs), signs)
    signs = start
    for _ in range(SWEEPS):
        signs = torch.where(fixed, start, _sums(signs[None])[0] / 27)  # the border is fixed
    return torch.where(signs == 0, torch.ones_like(signs), signs)


def _sums(values: Float[Tensor, "k x y z"]) -> Float[Tensor, "k x y z"]:
    """Sums over the 3^3 neighbourhood, one axis after the other: avg_pool3d takes four times as
    long. Outside the grid everything is 0."""
    for axis in (1, 2, 3):
        many = values.shape[axis] - 1
        summed = values.clone()
        summed.narrow(axis, 1, many).add_(values.narrow(axis, 0, many))
        summed.narrow(axis, 0, many).add_(values.narrow(axis, 1, many))
        values = summed
    return values


def _grown(chosen: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    return F.max_pool3d(chosen.float()[None], 3, stride=1, padding=1)[0] > 0
