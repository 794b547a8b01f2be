"""Batches of stage 1: random pictures of objects, their shapes and their poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.data.objects.dataset import ObjectRecord, ObjectSet
from loci.objects.inputs.pointmap import canonical_normalizer
from loci.objects.inputs.preprocess import StructureInputs, structure_inputs
from loci.objects.models.condition import POINTMAPS
from loci.objects.placement.pose import MatrixPose, canonical_pose, encode_pose
from loci.train.structure.coordinates import crop_coordinates
from loci.train.structure.scenes import (
    ObjectView,
    ObjectViews,
    SceneAugmentation,
    SyntheticScene,
    random_scene,
)

Rng = torch.Generator


class StructureObject(NamedTuple):
    """An object's renders and the voxels that it occupies."""

    name: str
    views: ObjectViews
    occupancy: Bool[Tensor, "r r r"]


class StructureBatch(NamedTuple):
    """Inputs and targets of stage 1.

    Attributes:
        pictures: inputs of all samples by name; see `preprocess.StructureInputs`.
        pointmaps: the same of the first samples only: the others have none.
        coordinates: object coordinates of the crops; see `crop_coordinates`.
        layout: targets by published name, `[b, 1, c]`.
        objects: which object each sample shows.
        mirrored: whether it is the mirror image of that object.
        normalizer: scale and shift, `[b, 3]` each, that the layout is measured by.
        placement: the pose itself; of samples without pointmap, in the canonical scene.
    """

    pictures: Mapping[str, Tensor]
    pointmaps: Mapping[str, Tensor]
    coordinates: Float[Tensor, "b 4 g g"]
    layout: Mapping[str, Tensor]
    objects: Int[Tensor, "b"]
    mirrored: Bool[Tensor, "b"]
    normalizer: tuple[Tensor, Tensor]
    placement: MatrixPose

    @property
    def with_pointmap(self) -> int:
        """How many samples have one."""
        return len(next(iter(self.pointmaps.values()))) if self.pointmaps else 0

    def to(self, device: torch.device) -> StructureBatch:
        """The same batch for a model on that device; what it is judged by stays on the CPU."""
        pictures, pointmaps = (
            {name: x.to(device) for name, x in part.items()}
            for part in (self.pictures, self.pointmaps)
        )
        coordinates = self.coordinates.to(device)
        return self._replace(pictures=pictures, pointmaps=pointmaps, coordinates=coordinates)


class _Sample(NamedTuple):
    tensors: Mapping[str, Tensor]
    coordinates: Tensor
    index: int
    mirrored: bool
    scale: Tensor
    shift: Tensor
    placement: MatrixPose


def load_structure_objects(objects: ObjectSet, resolution: int = 32) -> list[StructureObject]:
    """All objects of a set; their renders stay on disk until they are drawn."""
    viewed = []
    for i, record in enumerate(objects.records):
        occupancy = objects.occupancy(i, resolution)
        placement = MatrixPose(*(record.read(name) for name in MatrixPose._fields))
        views = ObjectViews(
            partial(_render, record), record.read("fov"), placement, floor_height(occupancy)
        )
        viewed.append(StructureObject(record.name, views, occupancy))
    return viewed


def _render(record: ObjectRecord, view: int) -> tuple[Tensor, Tensor]:
    return record.read_row("rgba", view), record.read_row("depth", view)


def floor_height(occupancy: Bool[Tensor, "r r r"]) -> float:
    """Height of the lower side of the lowest voxel, in the object's frame."""
    return int(torch.nonzero(occupancy.any(dim=0).any(dim=0))[0]) / occupancy.shape[-1] - 0.5


def structure_batch(
    objects: Sequence[StructureObject],
    chosen: Sequence[tuple[int, int]],
    with_pointmap: int,
    size: int,
    augmentation: SceneAugmentation,
    rng: Rng,
) -> StructureBatch:
    """The given (object, view) pairs in random pictures; the first ones with their pointmap."""
    samples = [
        _sample(objects, pair, number < with_pointmap, size, augmentation, rng)
        for number, pair in enumerate(chosen)
    ]
    first = samples[:with_pointmap]
    placement = MatrixPose(
        *(torch.stack(part) for part in zip(*(s.placement for s in samples), strict=True))
    )
    scale, shift = (torch.stack([getattr(s, part) for s in samples]) for part in ("scale", "shift"))
    sizes = placement.scale[:, None].expand(-1, 3)
    names = [name for name in samples[0].tensors if name not in POINTMAPS]
    return StructureBatch(
        {name: torch.cat([s.tensors[name] for s in samples]) for name in names},
        {name: torch.cat([s.tensors[name] for s in first]) for name in POINTMAPS if first},
        torch.stack([s.coordinates for s in samples]),
        encode_pose(placement.rotation, placement.translation, sizes, scale, shift),
        torch.tensor([s.index for s in samples]),
        torch.tensor([s.mirrored for s in samples]),
        (scale, shift),
        placement,
    )


def random_pairs(objects: Sequence[StructureObject], count: int, rng: Rng) -> list[tuple[int, int]]:
    """Objects, all alike likely, and one view of each."""
    chosen = torch.randint(len(objects), (count,), generator=rng).tolist()
    return [(i, int(torch.randint(len(objects[i].views), (), generator=rng))) for i in chosen]


def _sample(
    objects: Sequence[StructureObject],
    pair: tuple[int, int],
    with_pointmap: bool,
    size: int,
    augmentation: SceneAugmentation,
    rng: Rng,
) -> _Sample:
    index, number = pair
    view = objects[index].views.view(number)
    mirrored = float(torch.rand((), generator=rng)) < augmentation.mirrored
    view = view.mirrored() if mirrored else view

    def other_view() -> ObjectView:
        ((other, number),) = random_pairs(objects, 1, rng)
        return objects[other].views.view(number)

    def inputs_of(scene: SyntheticScene) -> StructureInputs:
        points = scene.pointmap if with_pointmap else None
        return structure_inputs(scene.rgb, scene.mask, points, size)

    scene, inputs = random_scene(view, other_view, augmentation, rng, inputs_of)
    truth = MatrixPose(*(part[None] for part in view.placement))
    if with_pointmap:
        placement, normalizer = truth, inputs.normalizer
    else:
        placement = canonical_pose(truth, torch.tensor([view.fov]))
        normalizer = canonical_normalizer(scene.mask)
    placement = MatrixPose(*(part[0] for part in placement))
    coordinates = crop_coordinates(view, scene)
    scale, shift = normalizer
    return _Sample(inputs.tensors, coordinates, index, mirrored, scale, shift, placement)
