"""Occupancies to learn shapes from: objects stretched, turned and mirrored, and primitives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from loci.data.objects.synthetic import primitive_occupancy
from loci.geometry.voxels import voxel_centers

Rng = torch.Generator


@dataclass(frozen=True)
class ShapeAugmentation:
    """How shapes are varied; all but `min_scale` are chances.

    Attributes:
        primitives: of a composition of primitives instead of an object.
        changed: that an object is stretched, turned or moved; otherwise it is as it is.
        turned: that a changed object is also turned by any angle about the vertical.
        min_scale: the smallest factor on an axis.
    """

    primitives: float = 0.25
    changed: float = 0.6
    turned: float = 0.3
    min_scale: float = 0.65


class Shapes:
    """Objects as lists of the voxels they occupy on a grid twice as fine as wanted.

    Args:
        occupancies: bool, all of one resolution.
        fineness: their resolution over the wanted one.
    """

    def __init__(self, occupancies: Sequence[Bool[Tensor, "s s s"]], fineness: int = 2) -> None:
        if not occupancies:
            raise ValueError("expected at least one shape")
        self.resolution = occupancies[0].shape[0] // fineness
        self.fineness = fineness
        self._voxels = [torch.argwhere(shape).to(torch.uint8) for shape in occupancies]

    def __len__(self) -> int:
        return len(self._voxels)

    def plain(self, index: int) -> Bool[Tensor, "r r r"]:
        """The voxels of the wanted grid that hold a fine one."""
        return self._grid(self._voxels[index].long() // self.fineness)

    def batch(
        self, size: int, augmentation: ShapeAugmentation, rng: Rng
    ) -> Float[Tensor, "b 1 r r r"]:
        """Random shapes, 1 where occupied."""
        drawn = [self._draw(augmentation, rng) for _ in range(size)]
        return torch.stack(drawn)[:, None].float()

    def _draw(self, augmentation: ShapeAugmentation, rng: Rng) -> Bool[Tensor, "r r r"]:
        if _chance(augmentation.primitives, rng):
            seed = int(torch.randint(2**31, (), generator=rng))
            shape = torch.from_numpy(primitive_occupancy(seed, self.resolution))
        else:
            index = int(torch.randint(len(self), (), generator=rng))
            changed = _chance(augmentation.changed, rng)
            shape = self._changed(index, augmentation, rng) if changed else self.plain(index)
        axes = [axis for axis in (0, 1) if _chance(0.5, rng)]
        shape = shape.flip(axes) if axes else shape
        return shape.transpose(0, 1) if _chance(0.5, rng) else shape

    def _changed(
        self, index: int, augmentation: ShapeAugmentation, rng: Rng
    ) -> Bool[Tensor, "r r r"]:
        """Voxels' centres stretched by at most 1, so that no gap opens between them."""
        side = self.resolution * self.fineness
        points = voxel_centers(self._voxels[index], side)
        if _chance(augmentation.turned, rng):
            points = points @ _about_vertical(2 * math.pi * float(torch.rand((), generator=rng)))
        least = augmentation.min_scale
        factor = least + (1 - least) * torch.rand(3, generator=rng)
        reach = points.abs().amax(dim=0)
        points = points * torch.minimum(factor, 0.48 / reach)
        room = 0.49 - points.abs().amax(dim=0)
        room = room.clamp(0, 2 / self.resolution)
        points = points + room * (2 * torch.rand(3, generator=rng) - 1)
        return self._grid(((points + 0.5) * self.resolution).long())

    def _grid(self, voxels: Int[Tensor, "n 3"]) -> Bool[Tensor, "r r r"]:
        grid = torch.zeros((self.resolution,) * 3, dtype=torch.bool)
        grid[voxels.unbind(1)] = True
        return grid


def max_pool_voxels(occupancy: Bool[Tensor, "s s s"], factor: int) -> Bool[Tensor, "r r r"]:
    """A voxel is occupied when any of its finer ones is."""
    return F.max_pool3d(occupancy[None].float(), factor)[0] > 0


def _about_vertical(angle: float) -> Float[Tensor, "3 3"]:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _chance(probability: float, rng: Rng) -> bool:
    return float(torch.rand((), generator=rng)) < probability
