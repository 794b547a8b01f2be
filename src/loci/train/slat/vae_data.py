"""What stage 2 is trained on: the voxels, surface samples and views of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor
from torch.nn import functional as F

from loci.data.objects.dataset import ObjectRecord, ObjectSet
from loci.geometry.camera import Camera
from loci.nn.sparse.voxels import Voxels
from loci.objects.models.slat_encoder import CELLS, cells, corner_distances, surface_features
from loci.objects.placement.pose import MatrixPose
from loci.train.structure.data import floor_height
from loci.train.structure.scenes import ObjectView


class TargetView(NamedTuple):
    """A picture of an object alone, to compare a render with.

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
        behind = background.to(self.color)[:, None, None]
        return self.alpha * self.color + (1 - self.alpha) * behind

    def to(self, device: torch.device) -> TargetView:
        """The same picture on another device; the camera follows what it renders."""
        return self._replace(color=self.color.to(device), alpha=self.alpha.to(device))


class SlatView(NamedTuple):
    """One view of an object: lit at random, and its colours by an even light, `[3, s, s]`."""

    view: ObjectView
    even: Float[Tensor, "3 s s"]

    def target(self, size: int) -> TargetView:
        """The object by an even light, reduced to a picture of side `size`."""
        view = self.view
        whole = torch.cat([self.even * view.alpha, view.alpha])
        reduced = F.adaptive_avg_pool2d(whole, size)
        camera = Camera.from_pose(*view.placement, view.fov)
        return TargetView(camera, reduced[:3] / reduced[3:].clamp(min=1e-4), reduced[3])


@dataclass(frozen=True)
class SlatDataset:
    """Voxels and surfaces of objects, in memory, and their views, read from disk by (object,
    view)."""

    items: Sequence[SlatObject]
    views: int
    view: Callable[[int, int], SlatView]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def load(cls, *folders: Path, resolution: int = 32) -> SlatDataset:
        """The objects of folders as `loci.data.objects.dataset` reads them.

        Raises:
            LociError: when one has none, or an object is damaged.
        """
        objects = ObjectSet.load(*folders)
        occupied = [objects.occupancy(i, resolution) for i in range(len(objects))]
        floors = [floor_height(grid) for grid in occupied]
        items = [
            SlatObject(torch.argwhere(grid), record.read("surface"), record.read("sdf"))
            for grid, record in zip(occupied, objects.records, strict=True)
        ]

        def read_view(number: int, view: int) -> SlatView:
            return _read_view(objects.records[number], view, floors[number])

        return cls(items, objects.views, read_view)


def _read_view(record: ObjectRecord, view: int, floor: float) -> SlatView:
    rgba, even = (
        record.read_row(name, view).permute(2, 0, 1).float() / 255 for name in ("rgba", "even")
    )
    rotation, translation, scale = (
        record.read_row(name, view) for name in ("rotation", "translation", "scale")
    )
    depth, fov = record.read_row("depth", view).float(), float(record.read_row("fov", view))
    placement = MatrixPose(rotation, translation, scale)
    return SlatView(ObjectView(rgba[:3], rgba[3:], depth, fov, placement, floor), even)


SDF_STEPS = 32
"""Stored distances are whole numbers of this part of a voxel."""


class SlatObject(NamedTuple):
    """An object as stage 2 learns from it.

    `coords` `[n, 3]` are its voxels, `surface` `[m, 9]` samples (place, normal, colour in
    [0, 1]), `sdf` the stored distances at the corners of the grid twice as fine.
    """

    coords: Int[Tensor, "n 3"]
    surface: Float[Tensor, "m 9"]
    sdf: Int8[Tensor, "s s s"]

    @property
    def resolution(self) -> int:
        """Voxels along the side of the grid of `coords`."""
        return (self.sdf.shape[0] - 1) // 2


class Symmetry(NamedTuple):
    """One of the eight ways to turn and mirror an upright object into its own frame."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def matrix(self) -> Float[Tensor, "3 3"]:
        """Row vectors times this are moved."""
        rows = torch.eye(3)[[1, 0, 2]] if self.swap else torch.eye(3)
        return rows * torch.tensor([1 - 2.0 * self.flip_x, 1 - 2.0 * self.flip_y, 1.0])

    def apply(self, item: SlatObject) -> SlatObject:
        """The object turned or mirrored; normals still point outward."""
        side = item.resolution
        centered = (2 * item.coords + 1 - side).float() @ self.matrix
        coords = ((centered.round().long() + side - 1) // 2).to(item.coords.dtype)
        matrix, sdf = self.matrix, item.sdf
        place, normal, color = item.surface.float().split(3, dim=1)
        surface = torch.cat([place @ matrix, normal @ matrix, color], dim=1)
        sdf = sdf.transpose(0, 1) if self.swap else sdf
        axes = [axis for axis, flip in enumerate((self.flip_x, self.flip_y)) if flip]
        return SlatObject(coords, surface, sdf.flip(axes) if axes else sdf)


MIRROR = Symmetry(flip_x=True)


class SlatVAEBatch(NamedTuple):
    """Several objects' voxels, what they hold, and surface samples with their place in them.

    `features` `[n, CHANNELS]` ends with `corners` `[n, 27]`; `samples` `[m, 9]` lie in the cell
    `cell` `[m]` of the voxel in row `owner` `[m]`, at `place` `[m, 3]` in [-1, 1].
    """

    voxels: Voxels
    features: Tensor
    corners: Tensor
    samples: Tensor
    owner: Tensor
    cell: Tensor
    place: Tensor
    filled: Tensor
    """Which voxels hold any sample `[n]`."""

    def to(self, device: torch.device) -> SlatVAEBatch:
        """The same batch on another device."""
        voxels, *tensors = self
        return SlatVAEBatch(voxels_to(voxels, device), *(x.to(device) for x in tensors))

    @property
    def fine_owner(self) -> Int[Tensor, "m"]:
        """Rows of the samples in `voxels.finer`."""
        return self.owner * CELLS + self.cell


def voxels_to(voxels: Voxels, device: torch.device) -> Voxels:
    """The same voxels on another device."""
    same = voxels.coords.device == device
    return voxels if same else Voxels(voxels.coords.to(device))


def slat_vae_batch(items: Sequence[SlatObject], samples: int, rng: torch.Generator) -> SlatVAEBatch:
    """A batch; every object gives at most `samples` of its surface samples, features use all."""
    parts, start = [], 0
    for number, item in enumerate(items):
        part = _item(item, number, start, samples, rng)
        parts.append(part)
        start += len(part[0])
    coords, *rest = (torch.cat(column) for column in zip(*parts, strict=True))
    return SlatVAEBatch(Voxels(coords), *rest)


def _item(
    item: SlatObject, number: int, start: int, samples: int, rng: torch.Generator
) -> tuple[Tensor, ...]:
    side, surface = item.resolution, item.surface.float()
    coords = item.coords.long()
    row = torch.full((side,) * 3, -1)
    row[coords.unbind(1)] = torch.arange(len(coords))
    voxel, cell, place = cells(surface[:, :3], side)
    owner = row[voxel.unbind(1)]
    inside = owner >= 0
    surface, owner, cell, place = (x[inside] for x in (surface, owner, cell, place))
    held = surface_features(torch.cat([place, surface[:, 3:]], dim=1), owner, cell, len(coords))
    corners = corner_distances(item.sdf, coords, SDF_STEPS)
    filled = torch.zeros(len(coords), dtype=torch.bool).index_fill(0, owner, True)
    chosen = torch.randperm(len(owner), generator=rng)[:samples]
    placed = torch.cat([coords.new_full((len(coords), 1), number), coords], dim=1)
    features = torch.cat([held, corners], dim=1)
    picked = (surface[chosen], owner[chosen] + start, cell[chosen], place[chosen])
    return (placed, features, corners, *picked, filled)


def augment(item: SlatObject, recolored_voxels: float, rng: torch.Generator) -> SlatObject:
    """The object turned or mirrored at random and in other colours, with the given chance in
    another colour at every voxel."""
    swap, flip_x, flip_y = (torch.rand(3, generator=rng) < 0.5).tolist()
    item = permute_colors(Symmetry(swap, flip_x, flip_y).apply(item), rng)
    every_voxel = torch.rand((), generator=rng) < recolored_voxels
    return recolor_voxels(item, rng) if every_voxel else item


def permute_colors(item: SlatObject, rng: torch.Generator) -> SlatObject:
    """Colour channels in another order, sometimes their complement."""
    geometry, color = item.surface.float().split([6, 3], dim=1)
    color = color[:, torch.randperm(3, generator=rng)]
    if torch.rand((), generator=rng) < 0.25:
        color = 1 - color
    return item._replace(surface=torch.cat([geometry, color], dim=1))


def recolor_voxels(item: SlatObject, rng: torch.Generator) -> SlatObject:
    """Every voxel in a random colour, mixed with its own.

    An object has a few colours and a batch a few objects: too few to learn from that colours can
    be anything.
    """
    side = item.resolution
    geometry, color = item.surface.float().split([6, 3], dim=1)
    voxel, _, _ = cells(geometry[:, :3], side)
    colors = torch.rand(side, side, side, 3, generator=rng)[voxel.unbind(1)]
    return item._replace(surface=torch.cat([geometry, torch.lerp(color, colors, 0.7)], dim=1))


def corrupt_voxels(item: SlatObject, most: float, rng: torch.Generator) -> SlatObject:
    """Every other object with voxels as stage 1 might get them wrong.

    A random share of at most `most` is dropped, and empty voxels are added beside as many.
    """
    if torch.rand((), generator=rng) < 0.5:
        return item
    drop, grow = (most * torch.rand(2, generator=rng)).tolist()
    remaining = item.coords[torch.rand(len(item.coords), generator=rng) >= drop]
    return item._replace(coords=torch.cat([remaining, free_neighbors(item, grow, rng)]))


def free_neighbors(item: SlatObject, share: float, rng: torch.Generator) -> Int[Tensor, "k 3"]:
    """Free neighbours of a random share of the voxels, each once."""
    coords, side = item.coords, item.resolution
    chosen = coords[torch.rand(len(coords), generator=rng) < share]
    steps = torch.cat([torch.eye(3), -torch.eye(3)]).to(coords.dtype)
    found = chosen + steps[torch.randint(6, (len(chosen),), generator=rng)]
    found = found[((found >= 0) & (found < side)).all(dim=1)]
    taken = torch.zeros((side,) * 3, dtype=torch.bool)
    taken[coords.long().unbind(1)] = True
    return torch.unique(found[~taken[found.long().unbind(1)]], dim=0)
