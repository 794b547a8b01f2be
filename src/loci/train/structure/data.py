"""Which place on the object every patch of a crop shows: what teaches the picture's embedder.

A flow that starts from nothing says little to the embedder it listens to. Places in the object's
own frame (normalised object coordinates; Wang et al., 2019) are known wherever a render shows the
object, and tell it about shape and pose at every patch. What reads them is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.data.objects.dataset import ObjectRecord, ObjectSet
from loci.objects.inputs.pointmap import nominal_scene
from loci.objects.inputs.preprocess import StructureInputs, square_crop, structure_inputs
from loci.objects.models.condition import POINTMAPS, FuserConfig
from loci.objects.placement.pose import MatrixPose, encode_pose, nominal_pose
from loci.train.structure.scenes import (
    ObjectView,
    ObjectViews,
    SceneAugmentation,
    SyntheticScene,
    random_scene,
)

GRID = 16
"""Cells along the side of a crop; what is shown in one of them has one place."""


def crop_coordinates(view: ObjectView, scene: SyntheticScene) -> Float[Tensor, "4 g g"]:
    """Mean place of what the crop shows in each cell, and how much of the cell is
    the object, unhidden and inside the mask.

    Places are in the object's frame, in [-0.5, 0.5].
    """
    r, t, s = view.placement
    shown = (view.alpha > 0.5) & (scene.mask > 0.5) & view.depth.isfinite()
    camera = view.rays() * torch.where(shown, view.depth, 0.0)
    places = torch.einsum("chw,dc->dhw", camera - t[:, None, None], r) / s
    held = torch.cat([places * shown, shown.float()])
    pooled = F.adaptive_avg_pool2d(square_crop(held, scene.mask), GRID)
    return torch.cat([pooled[:3] / pooled[3:].clamp(min=1e-6), pooled[3:]])


class CoordinateHead(nn.Module):
    """Reads the places off the tokens of the crop's patches, each by itself.

    Args:
        fuser: of the fuser whose tokens are read; the picture's crop comes first in them.

    Raises:
        ValueError: unless every patch holds as many cells.
    """

    def __init__(self, fuser: FuserConfig) -> None:
        super().__init__()
        size, patch = fuser.picture.input_size, fuser.picture.backbone.patch
        if GRID % (size // patch):
            raise ValueError(f"{size // patch} patches a side, expected a divisor of {GRID}")
        self.patches, self.cells = size // patch, GRID // (size // patch)
        registers = fuser.picture.backbone.registers if fuser.picture.tokens == "prenorm" else 0
        self.first = 1 + registers
        self.out = nn.Linear(fuser.dim, 3 * self.cells**2)

    def forward(self, condition: Float[Tensor, "b m c"]) -> Float[Tensor, "b 3 g g"]:
        tokens = condition[:, self.first : self.first + self.patches**2]
        read = self.out(tokens).mT.unflatten(2, (self.patches, self.patches))
        return F.pixel_shuffle(read, self.cells)


def coordinate_loss(
    found: Float[Tensor, "b 3 g g"], seen: Float[Tensor, "b 4 g g"]
) -> Float[Tensor, ""]:
    """Smooth absolute error, in half object sizes, of the cells that show the object; for every
    object the best of four quarter turns about the vertical.

    Furniture looks alike from its sides: told to choose one, the mean of all is the best answer,
    and nothing is learned.
    """
    places, shown = seen.split([3, 1], dim=1)
    turned = torch.stack([_turned(places, quarters) for quarters in range(4)])
    target = 2 * turned
    error = F.smooth_l1_loss(2 * found.expand_as(target), target, reduction="none", beta=0.1)
    count = (3 * shown.sum(dim=(1, 2, 3))).clamp(min=1e-6)
    return ((error * shown).sum(dim=(2, 3, 4)) / count).amin(dim=0).mean()


def _turned(places: Float[Tensor, "b 3 g g"], quarters: int) -> Float[Tensor, "b 3 g g"]:
    x, y, z = places.unbind(dim=1)
    for _ in range(quarters):
        x, y = -y, x
    return torch.stack([x, y, z], dim=1)


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
        coordinates: what the crops show of their objects; see `coordinates_in_crop`.
        layout: targets by released name, `[b, 1, c]`.
        objects: which object each sample shows.
        mirrored: whether it is the mirror image of that object.
        normaliser: scale and shift, `[b, 3]` each, that the layout is measured by.
        placement: the pose itself; of samples without pointmap, in the nominal scene.
    """

    pictures: Mapping[str, Tensor]
    pointmaps: Mapping[str, Tensor]
    coordinates: Float[Tensor, "b 4 g g"]
    layout: Mapping[str, Tensor]
    objects: Int[Tensor, "b"]
    mirrored: Bool[Tensor, "b"]
    normaliser: tuple[Tensor, Tensor]
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
        placement, normaliser = truth, inputs.normaliser
    else:
        placement = nominal_pose(truth, torch.tensor([view.fov]))
        normaliser = nominal_scene(scene.mask)
    placement = MatrixPose(*(part[0] for part in placement))
    coordinates = crop_coordinates(view, scene)
    scale, shift = normaliser
    return _Sample(inputs.tensors, coordinates, index, mirrored, scale, shift, placement)
