"""A coarser set of voxels for an object, and how to undo its change of size."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Aggregation:
    """Merged voxels and what must be done for the object to come out at its true size.

    Args:
        coords: integer rows (item, x, y, z), distinct, in lexicographic order.
        parent: the row in `coords` of every voxel that was merged.
        factor: by which the object shrank in its grid.
        pose_factor: multiply the scale of the object's pose by it.
        asset_factor: multiply positions and sizes of what is decoded by it (the object's frame is
            [-0.5, 0.5]^3), and
        asset_shift: then add this to positions.
    """

    coords: Int[Tensor, "m 4"]
    parent: Int[Tensor, "n"]
    factor: float
    pose_factor: float = 1.0
    asset_factor: float = 1.0
    asset_shift: float = 0.0

    def fused(
        self, values: Float[Tensor, "n *c"], by: Literal["max", "mean"] = "max"
    ) -> Float[Tensor, "m *c"]:
        """One value for each merged voxel: the largest of its children, or their mean."""
        total = values.new_zeros(len(self.coords), *values.shape[1:])
        place = self.parent.view(-1, *(1 for _ in values.shape[1:])).expand_as(values)
        reduce = "amax" if by == "max" else "mean"
        return total.scatter_reduce(0, place, values, reduce, include_self=False)

    def subset(self, limit: int, generator: torch.Generator | None = None) -> Int[Tensor, "k"]:
        """Ascending rows of `coords`: all, or a random `limit` of them."""
        if len(self.coords) <= limit:
            return torch.arange(len(self.coords), device=self.coords.device)
        chosen = torch.randperm(len(self.coords), generator=generator)[:limit]
        return chosen.sort().values.to(self.coords.device)


def aggregate(
    coords: Int[Tensor, "n 4"], factor: float, mode: str, resolution: int = 64
) -> Aggregation:
    """Merge voxels that fall on one place when the object shrinks by a factor.

    `released`: around the middle of its bounds with rounding, axis by axis; the pose makes up for
    it and the asset stays small (`shrunk`). `paper`: floor(p / factor), towards the grid's corner.
    `loci`: floor too, but around the middle of the grid: a similarity about the origin of the
    object's frame, so that the asset can be brought to its true size exactly.

    Raises:
        ValueError: for a factor below 1 or an unknown mode.
    """
    if factor < 1:
        raise ValueError(f"the decoding factor must be at least 1, got {factor}")
    if mode == "released":
        return Aggregation(*_merged(shrunk(coords, factor)), factor, pose_factor=factor)
    if mode not in ("paper", "loci"):
        raise ValueError(f"mode must be released, paper or loci, got {mode}")
    middle = resolution / 2 if mode == "loci" else 0.0
    # A voxel goes where its centre goes; in `paper` where its corner does.
    anchor = 0.5 if mode == "loci" else 0.0
    places = (coords[:, 1:].cpu().double() + anchor - middle) / factor + middle
    moved = torch.cat([coords[:, :1], places.floor().to(coords)], dim=1)
    shift = 0.0 if mode == "loci" else (factor - 1) / 2
    return Aggregation(*_merged(moved), factor, asset_factor=factor, asset_shift=shift)


def shrunk(coords: Int[Tensor, "n 4"], factor: float) -> Int[Tensor, "n 4"]:
    """Every voxel's place when the object is drawn smaller around the middle of its bounds.

    Ends of each axis go to ends; between them places are rounded half to even (SAM 3D Objects, 7).
    An axis on which the object is flat keeps its coordinate.
    """
    places = coords[:, 1:]
    lo, hi = places.amin(dim=0), places.amax(dim=0)
    extent = (hi - lo).float()
    target = (extent + 1) / factor
    start = lo + (extent + 1 - target) / 2
    stop = start + target - 1
    # A flat axis would divide by zero, and its middle is where it is.
    moved = (places - lo) / extent.clamp(min=1) * (target - 1) + start
    rounded = moved.round().clamp(start.trunc(), stop.trunc())
    rounded = torch.where(extent == 0, lo, rounded).to(coords.dtype)
    return torch.cat([coords[:, :1], rounded], dim=1)


def _merged(coords: Int[Tensor, "n 4"]) -> tuple[Int[Tensor, "m 4"], Int[Tensor, "n"]]:
    return torch.unique(coords, dim=0, return_inverse=True)
