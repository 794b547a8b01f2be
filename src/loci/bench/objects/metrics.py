"""How good a guess at an object is: its shape, its look from elsewhere, its place."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.bench.objects.cases import Case, rotation_error
from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.mesh.distance import mesh_points, surface_distance
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh
from loci.objects.inputs.pointmap import Placement
from loci.train.slat.vae_evaluate import PIXELS, POINTS, WHITE, picture_psnr
from loci.train.structure.evaluate import degrees_apart
from loci.train.structure.vae import voxel_iou
from loci.train.structure.vae_data import coarser

CELLS = 24
"""Along each side of a box, to see how much of it lies in another."""


class Guess(NamedTuple):
    """What was made of a picture.

    Attributes:
        points: spread over its surface, in the object's own frame.
        voxels: x, y, z of those it occupies.
        resolution: of their grid.
        thing: what is drawn.
        placement: its pose, with a batch axis of one.
    """

    points: Float[Tensor, "n 3"]
    voxels: Int[Tensor, "m 3"]
    resolution: int
    thing: Gaussians | Mesh
    placement: Placement


class Scores(NamedTuple):
    """Figures of one guess.

    Attributes:
        chamfer: mean distance of the surfaces in the object's frame, whose cube has side 1.
        f_score: at a distance of 0.05, 0 to 1.
        voxel_iou: 0 to 1.
        box_iou: of the boxes around the guess and the truth, each at its place and turned.
        rotation: degrees.
        turn: the same to the nearest rotation that looks like the true one (`symmetry`).
        psnr: of renders over white from where the picture does not show it, dB.
    """

    chamfer: float
    f_score: float
    voxel_iou: float
    box_iou: float
    rotation: float
    turn: float
    psnr: float


FIGURES = Scores._fields
TYPICAL = ("rotation", "turn")
"""Figures of which the median is told: objects that look the same from two sides have no mean."""


def score(guess: Guess | None, case: Case, truth: Placement) -> Scores:
    """Figures of a guess; None is a failure: it scores 0, and what it has no figure for is NaN."""
    if guess is None:
        blank = torch.ones(3, PIXELS, PIXELS)
        psnr = _mean([picture_psnr(blank, seen) for seen in case.unseen])
        return Scores(torch.nan, 0.0, 0.0, 0.0, torch.nan, torch.nan, psnr)
    surface = _surface(case)
    distance = surface_distance(guess.points, surface[_some(surface)])
    return Scores(
        chamfer=distance.chamfer,
        f_score=distance.f_score,
        voxel_iou=_voxel_iou(guess, case),
        psnr=_mean([picture_psnr(_drawn(guess.thing, s.camera), s) for s in case.unseen]),
        **_place(guess, case, truth),
    )


def mark_elsewhere(marks: Scores, guess: Guess, case: Case, truth: Placement) -> Scores:
    """Figures of the same object put to another place; its shape and its look are not judged
    again."""
    return marks._replace(**_place(guess, case, truth))


def surface_points(thing: Gaussians | Mesh) -> Float[Tensor, "n 3"]:
    """Points spread over a mesh, or where the Gaussians are."""
    if isinstance(thing, Mesh):
        return mesh_points(thing, POINTS, torch.Generator().manual_seed(0))
    return thing.positions[_some(thing.positions)]


class Box(NamedTuple):
    """What lies between two corners of an object's frame, and its pose."""

    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]
    placement: Placement

    @classmethod
    def around(cls, points: Float[Tensor, "n 3"], placement: Placement) -> Box:
        """The smallest one; without points it is empty."""
        if not len(points):
            return cls(torch.zeros(3), torch.zeros(3), placement)
        return cls(points.amin(dim=0), points.amax(dim=0), placement)

    @property
    def volume(self) -> float:
        """In the camera's units."""
        return float(((self.high - self.low) * self.placement.scale[0]).prod())

    def cells(self) -> Float[Tensor, "n 3"]:
        """The middles of equal parts of it, in the camera frame."""
        steps = (torch.arange(CELLS) + 0.5) / CELLS
        points = self.low + torch.cartesian_prod(steps, steps, steps) * (self.high - self.low)
        rotation, translation, scale = (part[0] for part in self.placement)
        return points * scale @ rotation + translation

    def share(self, points: Float[Tensor, "n 3"]) -> float:
        """How many of these points of the camera frame lie in it."""
        rotation, translation, scale = (part[0] for part in self.placement)
        own = (points - translation) @ rotation.T / scale
        return float(((own >= self.low) & (own <= self.high)).all(dim=1).float().mean())


def box_iou(first: Box, second: Box) -> float:
    """Volume in both over volume in either, counted in small cells; 0 for flat ones."""
    one, other = first.volume, second.volume
    common = (one * second.share(first.cells()) + other * first.share(second.cells())) / 2
    either = one + other - common
    return common / either if one > 0 and other > 0 and either > 0 else 0.0


def _place(guess: Guess, case: Case, truth: Placement) -> dict[str, float]:
    own, true = Box.around(guess.points, guess.placement), Box.around(_surface(case), truth)
    found, right = guess.placement.rotation, truth.rotation
    return {
        "box_iou": box_iou(own, true),
        "rotation": float(degrees_apart(found, right)),
        "turn": rotation_error(found[0], right[0], case.turns),
    }


def _surface(case: Case) -> Float[Tensor, "n 3"]:
    return case.item.surface[:, :3].float()


def _voxel_iou(guess: Guess, case: Case) -> float:
    side = guess.resolution
    grid = torch.zeros((side,) * 3, dtype=torch.bool)
    grid[guess.voxels.long().unbind(1)] = True
    truth = coarser(case.occupancy, len(case.occupancy) // side)
    return float(voxel_iou(grid[None], truth[None]))


def _drawn(thing: Gaussians | Mesh, camera: Camera) -> Float[Tensor, "3 s s"]:
    if isinstance(thing, Mesh):
        return render_mesh(thing, camera, PIXELS, WHITE, light=None).colour
    return render_gaussians(thing, camera, PIXELS, WHITE).colour


def _some(points: Float[Tensor, "n 3"]) -> Int[Tensor, "m"]:
    """Rows of as many points as are compared: always the same ones, in no order."""
    return torch.randperm(len(points), generator=torch.Generator().manual_seed(1))[:POINTS]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else torch.nan
