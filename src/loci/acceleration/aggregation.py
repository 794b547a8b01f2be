"""Merging voxels: decoding an object on a coarser grid at its true size."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Aggregation:
    """Merged voxels, and the corrections that restore the object's true size.

    Args:
        coords: integers (item, x, y, z), distinct, in lexicographic order.
        parent: the index in `coords` of every voxel that was merged.
        factor: the factor by which the object shrank in its grid.
        pose_factor: multiplies the scale of the object's pose.
        asset_factor: multiplies the positions and sizes of what is decoded, in the object's frame
            [-0.5, 0.5]^3.
        asset_shift: is then added to the positions.
    """

    coords: Int[Tensor, "m 4"]
    parent: Int[Tensor, "n"]
    factor: float
    pose_factor: float = 1.0
    asset_factor: float = 1.0
    asset_shift: float = 0.0

    def pooled(
        self, values: Float[Tensor, "n *c"], by: Literal["max", "mean"] = "max"
    ) -> Float[Tensor, "m *c"]:
        """One value for each merged voxel: the largest or the mean of its children's."""
        total = values.new_zeros(len(self.coords), *values.shape[1:])
        index = self.parent.view(-1, *(1 for _ in values.shape[1:])).expand_as(values)
        reduce = "amax" if by == "max" else "mean"
        return total.scatter_reduce(0, index, values, reduce, include_self=False)

    def subset(self, limit: int, generator: torch.Generator | None = None) -> Int[Tensor, "k"]:
        """Indices of `coords`, ascending: all of them, or a random `limit`."""
        if len(self.coords) <= limit:
            return torch.arange(len(self.coords), device=self.coords.device)
        chosen = torch.randperm(len(self.coords), generator=generator)[:limit]
        return chosen.sort().values.to(self.coords.device)


def aggregate(coords: Int[Tensor, "n 4"], factor: float, resolution: int) -> Aggregation:
    """Merge voxels whose centres fall into one cell of a grid that is coarser by `factor`.

    The object shrinks about the middle of the grid, the origin of its frame, so that scaling what
    is decoded restores its size exactly.

    Raises:
        ValueError: for a factor below 1.
    """
    check_factor(factor)
    middle = resolution / 2
    # A voxel belongs to the cell that its centre falls into.
    cells = (coords[:, 1:].cpu().double() + 0.5 - middle) / factor + middle
    return Aggregation(*merged(coords, cells.floor()), factor, asset_factor=factor)


def check_factor(factor: float) -> None:
    """Raises ValueError for a factor below 1."""
    if factor < 1:
        raise ValueError(f"the decoding factor must be at least 1, got {factor}")


def merged(
    coords: Int[Tensor, "n 4"], cells: Tensor
) -> tuple[Int[Tensor, "m 4"], Int[Tensor, "n"]]:
    """Distinct cells `[n, 3]` of each item, and the index of every voxel's cell."""
    moved = torch.cat([coords[:, :1], cells.to(coords)], dim=1)
    return torch.unique(moved, dim=0, return_inverse=True)


def shrunk(coords: Int[Tensor, "n 4"], factor: float) -> Int[Tensor, "n 4"]:
    """The voxels of an object that is `factor` times smaller about the middle of its bounds.

    As in SAM 3D Objects: the ends of each axis go to the ends of the smaller range, and positions
    between them are rounded half to even. A flat axis keeps its coordinate.
    """
    positions = coords[:, 1:]
    low, high = positions.amin(dim=0), positions.amax(dim=0)
    extent = (high - low).float()
    target = (extent + 1) / factor
    start = low + (extent + 1 - target) / 2
    stop = start + target - 1
    # The clamp avoids a division by zero on flat axes, which are restored below.
    moved = (positions - low) / extent.clamp(min=1) * (target - 1) + start
    rounded = moved.round().clamp(start.trunc(), stop.trunc())
    rounded = torch.where(extent == 0, low, rounded).to(coords.dtype)
    return torch.cat([coords[:, :1], rounded], dim=1)
