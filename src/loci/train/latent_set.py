"""The objects of a folder as stage 2 learns from them: voxels, surfaces and views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.data.objects import ObjectRecord, ObjectSet
from loci.geometry.camera import Camera
from loci.objects.nominal import Placement
from loci.train.latent_batches import LatentObject
from loci.train.object_batches import lowest
from loci.train.object_scenes import Sight


class SeenView(NamedTuple):
    """An object as it looks by itself, without a background.

    Attributes:
        camera: in the object's frame.
        color: RGB in [0, 1], `[3, s, s]`; anything where alpha is 0.
        alpha: how much of a pixel the object covers, `[s, s]`.
    """

    camera: Camera
    color: Float[Tensor, "3 s s"]
    alpha: Float[Tensor, "s s"]

    def over(self, background: Float[Tensor, "3"]) -> Float[Tensor, "3 s s"]:
        """In front of one colour."""
        return self.alpha * self.color + (1 - self.alpha) * background[:, None, None]


class Recorded(NamedTuple):
    """One view of an object: lit at random, and its colours by an even light, `[3, s, s]`."""

    sight: Sight
    even: Float[Tensor, "3 s s"]

    def seen(self, size: int) -> SeenView:
        """The object's own look, reduced to a picture of side `size`."""
        sight = self.sight
        whole = torch.cat([self.even * sight.alpha, sight.alpha])
        reduced = F.adaptive_avg_pool2d(whole, size)
        camera = Camera.of_pose(*sight.placement, sight.fov)
        return SeenView(camera, reduced[:3] / reduced[3:].clamp(min=1e-4), reduced[3])


@dataclass(frozen=True)
class LatentSet:
    """What objects hold, in memory, and a way to their views by (object, view)."""

    items: Sequence[LatentObject]
    views: int
    recorded: Callable[[int, int], Recorded]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def load(cls, *folders: Path, resolution: int = 32) -> LatentSet:
        """The objects of folders as `loci.data.objects` reads them.

        Raises:
            LociError: when one has none, or an object is damaged.
        """
        objects = ObjectSet.load(*folders)
        occupied = [objects.occupancy(i, resolution) for i in range(len(objects))]
        floors = [lowest(grid) for grid in occupied]
        items = [
            LatentObject(torch.argwhere(grid), record.read("surface"), record.read("sdf"))
            for grid, record in zip(occupied, objects.records, strict=True)
        ]

        def recorded(number: int, view: int) -> Recorded:
            return _recorded(objects.records[number], view, floors[number])

        return cls(items, objects.views, recorded)


def _recorded(record: ObjectRecord, view: int, floor: float) -> Recorded:
    rgba, even = (
        record.read_row(name, view).permute(2, 0, 1).float() / 255 for name in ("rgba", "even")
    )
    rotation, translation, scale = (
        record.read_row(name, view) for name in ("rotation", "translation", "scale")
    )
    depth, fov = record.read_row("depth", view).float(), float(record.read_row("fov", view))
    placement = Placement(rotation, translation, scale)
    return Recorded(Sight(rgba[:3], rgba[3:], depth, fov, placement, floor), even)
