"""Turns about the vertical after which an object looks as before: no picture tells them apart."""

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
from loci.objects.inputs.pointmap import Placement, nominal_pose
from loci.train.slat.vae_data import SeenView, SlatDataset, SlatObject
from loci.train.slat.vae_evaluate import PIXELS, spread
from loci.train.structure.evaluate import degrees_apart
from loci.train.structure.scenes import CLEAN, compose
from loci.train.trainer import step_generator

STEPS = 24
"""Turns that are tried, evenly around the circle: of a bowl, errors up to half a step remain."""
SYMMETRY_POINTS = 2048
ALIKE = 0.97
"""From this share of points within `REACH` of the surface after a turn it counts as the same."""
REACH = 0.05


def own_turns(surface: Float[Tensor, "n 3"]) -> Float[Tensor, "k 3 3"]:
    """Rotations of row vectors that leave a shape as it is, the identity first.

    Args:
        surface: points spread over it, in the object's frame (z up, its middle at the origin).
    """
    rows = torch.randperm(len(surface), generator=torch.Generator().manual_seed(0))[
        :SYMMETRY_POINTS
    ]
    points = surface[rows].float()
    turns = [_turn(number) for number in range(STEPS)]
    # Of all points, so that it does not depend on how large the surface is.
    apart = [nearest_distances(points @ turn, surface.float()) for turn in turns[1:]]
    alike = [float((far < REACH).float().mean()) >= ALIKE for far in apart]
    return torch.stack([turns[0], *(t for t, same in zip(turns[1:], alike, strict=True) if same)])


def rotation_error(
    found: Float[Tensor, "3 3"], truth: Float[Tensor, "3 3"], turns: Float[Tensor, "k 3 3"]
) -> float:
    """Degrees to the nearest of the rotations that look like the true one."""
    return float(degrees_apart(found.expand_as(turns), turns @ truth).min())


def _turn(number: int) -> Float[Tensor, "3 3"]:
    angle = 2 * math.pi * number / STEPS
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Case:
    """One object, and one picture of it.

    Attributes:
        name: of the object.
        view: which of its views is shown.
        pixels: the picture.
        mask: where the object is in it.
        pointmap: x left, y up, z forward, NaN where unknown.
        fov: horizontal field of view in degrees.
        occupancy: the voxels that its surface touches.
        item: its surface, and its voxels at half that resolution.
        placement: its pose, with a batch axis of one.
        unseen: views that are not shown, by an even light.
    """

    name: str
    view: int
    pixels: UInt8[np.ndarray, "s s 3"]
    mask: Bool[np.ndarray, "s s"]
    pointmap: Float[Tensor, "s s 3"]
    fov: float
    occupancy: Bool[Tensor, "64 64 64"]
    item: SlatObject
    placement: Placement
    unseen: tuple[SeenView, ...]

    @cached_property
    def turns(self) -> Float[Tensor, "k 3 3"]:
        """What turns leave the object as it is (`symmetry`)."""
        return own_turns(self.item.surface[:, :3])

    @property
    def nominal(self) -> Placement:
        """What the picture alone can tell of the pose: it is measured by the object's distance."""
        return nominal_pose(self.placement, torch.tensor([self.fov]))


@dataclass(frozen=True)
class HeldOut:
    """Objects that nothing was trained on; a case is the same whatever others are looked at.

    Pictures are made as for the examinations in training: nothing else is in them, and behind the
    object is a pattern, or a floor and a wall. `unseen` views of each are compared.
    """

    objects: ObjectSet
    material: SlatDataset
    seed: int
    unseen: int

    @classmethod
    def load(cls, folder: Path, seed: int, unseen: int) -> HeldOut:
        """The objects of a folder.

        Raises:
            LociError: when there are none, or one is damaged.
        """
        return cls(ObjectSet.load(folder), SlatDataset.load(folder), seed, unseen)

    def chosen(self, count: int | None) -> list[int]:
        """Numbers of so many objects, spread over all; None for all of them."""
        return spread(len(self.objects), count or len(self.objects))

    def case(self, number: int) -> Case:
        """The object of that number, in a picture that depends on nothing but it and the seed."""
        rng = step_generator(self.seed, number)
        shown = int(torch.randint(self.material.views, (), generator=rng))
        sight = self.material.recorded(number, shown).sight
        scene = compose(sight, sight, CLEAN, rng)
        others = [view for view in range(self.material.views) if view != shown]
        unseen = [others[k] for k in spread(len(others), self.unseen)]
        return Case(
            name=self.objects.records[number].name,
            view=shown,
            pixels=(scene.rgb * 255).round().to(torch.uint8).movedim(0, -1).numpy(),
            mask=scene.mask[0].numpy() > 0.5,
            pointmap=scene.pointmap.movedim(0, -1),
            fov=sight.fov,
            occupancy=self.objects.occupancy(number, GRID),
            item=self.material.items[number],
            placement=Placement(*(part[None] for part in sight.placement)),
            unseen=tuple(self.material.recorded(number, view).seen(PIXELS) for view in unseen),
        )
