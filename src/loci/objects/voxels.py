"""Operations on lists of occupied voxels: integer rows (batch, x, y, z)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from loci.acceleration.aggregation import shrunk

VOXEL_LIMIT = 42000
"""More voxels than this are brought to a coarser grid before stage 2 (SAM 3D Objects, 7)."""


def prune(coords: Int[Tensor, "n 4"], distance: int = 1) -> Int[Tensor, "m 4"]:
    """Drop interior voxels: those whose cube of side 2 distance + 1 is full. Keeps the order.

    Every item of a batch is looked at by itself.
    """
    kept = torch.ones(len(coords), dtype=torch.bool, device=coords.device)
    for item in coords[:, 0].unique():
        rows = coords[:, 0] == item
        kept[rows] = ~_interior(coords[rows, 1:].long(), distance)
    return coords[kept]


def coarsen(
    coords: Int[Tensor, "n 4"],
    limit: int = VOXEL_LIMIT,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "m 4"], int]:
    """At most `limit` voxels, and the factor by which the object shrank in its grid.

    With more than `limit` the object is drawn at half its size around the middle of its bounds
    (factor 2, which the object's scale must be multiplied by), each place listed once in
    lexicographic order; what is still too much is cut to a random subset. Else nothing happens
    and the factor is 1. An axis on which the object is flat keeps its coordinate.
    """
    if len(coords) <= limit:
        return coords, 1
    fewer = torch.unique(shrunk(coords, 2), dim=0)
    if len(fewer) > limit:
        chosen = torch.randperm(len(fewer), generator=generator)[:limit]
        fewer = fewer[chosen.sort().values.to(fewer.device)]
    return fewer, 2


def _interior(places: Int[Tensor, "n 3"], distance: int) -> Bool[Tensor, "n"]:
    places = places - places.amin(dim=0)
    side = 2 * distance + 1
    grid = torch.zeros(*(places.amax(dim=0) + 1).tolist(), device=places.device)
    grid[places.unbind(1)] = 1
    empty = F.pad(1 - grid[None, None], (distance,) * 6, value=1.0)
    near_empty = F.max_pool3d(empty, side, stride=1)[0, 0]
    return near_empty[places.unbind(1)] == 0
