"""Held-out objects in pictures: what is lifted, what is true of it, and its symmetries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from loci.data.objects.dataset import ObjectSet
from loci.data.objects.surface import GRID
from loci.geometry.mesh.distance import nearest_distances
from loci.geometry.rotations import degrees_apart
from loci.objects.placement.pose import MatrixPose, canonical_pose
from loci.train.slat.vae_data import SlatDataset, SlatObject, TargetView
from loci.train.slat.vae_evaluate import PIXELS, evenly_spaced
from loci.train.structure.scenes import CLEAN, compose
from loci.train.trainer import step_generator

ROTATIONS = 24
"""Rotations that are tested, evenly around the vertical axis."""
SYMMETRY_POINTS = 2048
SYMMETRIC_SHARE, TOLERANCE = 0.97, 0.05
"""A rotation is a symmetry if this share of the rotated points is this near to the surface."""


def rotational_symmetries(surface: Float[Tensor, "n 3"]) -> Float[Tensor, "k 3 3"]:
    """Rotations about the vertical axis that leave a shape as it is, the identity first.

    Args:
        surface: points spread over it, in the object's frame (z up, its centre at the origin).

    Returns:
        Matrices for row vectors, of the multiples of 15 degrees.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(surface), generator=generator)[:SYMMETRY_POINTS]
    points = surface[rows].float()
    rotations = [_rotation(number) for number in range(ROTATIONS)]
    # Distances to all points, so that the number of samples does not matter.
    distances = [nearest_distances(points @ matrix, surface.float()) for matrix in rotations[1:]]
    same = [float((d < TOLERANCE).float().mean()) >= SYMMETRIC_SHARE for d in distances]
    found = [matrix for matrix, is_same in zip(rotations[1:], same, strict=True) if is_same]
    return torch.stack([rotations[0], *found])


def symmetric_rotation_error(
    found: Float[Tensor, "3 3"], truth: Float[Tensor, "3 3"], symmetries: Float[Tensor, "k 3 3"]
) -> float:
    """Degrees to the nearest rotation under which the object looks as under the true one."""
    return float(degrees_apart(found.expand_as(symmetries), symmetries @ truth).min())


def _rotation(number: int) -> Float[Tensor, "3 3"]:
    angle = 2 * math.pi * number / ROTATIONS
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Case:
    """One object in one picture.

    Attributes:
        name: of the object.
        view: which of its views is in the picture.
        pixels: the picture.
        mask: where the object is in it.
        pointmap: x left, y up, z forward, NaN where unknown.
        fov: horizontal field of view in degrees.
        occupancy: the voxels that its surface touches.
        item: its surface, and its voxels at half that resolution.
        pose: the true one, with a batch axis of one.
        unseen: other views of it, under even light.
    """

    name: str
    view: int
    pixels: UInt8[np.ndarray, "s s 3"]
    mask: Bool[np.ndarray, "s s"]
    pointmap: Float[Tensor, "s s 3"]
    fov: float
    occupancy: Bool[Tensor, "64 64 64"]
    item: SlatObject
    pose: MatrixPose
    unseen: tuple[TargetView, ...]

    @cached_property
    def symmetries(self) -> Float[Tensor, "k 3 3"]:
        """The object's rotational symmetries."""
        return rotational_symmetries(self.item.surface[:, :3])

    @property
    def canonical_pose(self) -> MatrixPose:
        """The pose that the picture alone determines, with the object at distance 1."""
        return canonical_pose(self.pose, torch.tensor([self.fov]))


@dataclass(frozen=True)
class HeldOutObjects:
    """Objects that are not trained on. A case does not depend on which others are measured.

    Pictures are made as in the evaluations of training: the object alone, before a pattern or a
    floor and a wall.

    Args:
        objects: as rendered.
        dataset: the same, for stage 2.
        seed: seed of views and backgrounds.
        unseen: how many other views a case has.
    """

    objects: ObjectSet
    dataset: SlatDataset
    seed: int
    unseen: int

    @classmethod
    def load(cls, folder: Path, seed: int, unseen: int) -> HeldOutObjects:
        """The objects of a folder.

        Raises:
            LociError: when there are none, or one is damaged.
        """
        return cls(ObjectSet.load(folder), SlatDataset.load(folder), seed, unseen)

    def indices(self, count: int | None) -> list[int]:
        """Indices of so many objects, spread evenly; of all if None."""
        return evenly_spaced(len(self.objects), count or len(self.objects))

    def case(self, index: int) -> Case:
        """The object in a picture that depends only on its index and the seed."""
        rng = step_generator(self.seed, index)
        shown = int(torch.randint(self.dataset.views, (), generator=rng))
        view = self.dataset.view(index, shown).view
        scene = compose(view, view, CLEAN, rng)
        others = [number for number in range(self.dataset.views) if number != shown]
        unseen = [others[k] for k in evenly_spaced(len(others), self.unseen)]
        return Case(
            name=self.objects.records[index].name,
            view=shown,
            pixels=(scene.rgb * 255).round().to(torch.uint8).movedim(0, -1).numpy(),
            mask=scene.mask[0].numpy() > 0.5,
            pointmap=scene.pointmap.movedim(0, -1),
            fov=view.fov,
            occupancy=self.objects.occupancy(index, GRID),
            item=self.dataset.items[index],
            pose=MatrixPose(*(part[None] for part in view.placement)),
            unseen=tuple(self.dataset.view(index, number).target(PIXELS) for number in unseen),
        )
