"""Scores of a lifted object: its shape, its pose, and renders from unseen views."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.bench.objects.cases import Case, symmetric_rotation_error
from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.mesh.distance import mesh_points, surface_distance
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh
from loci.geometry.rotations import degrees_apart, quaternion_to_matrix
from loci.objects.asset import Asset
from loci.objects.placement.pose import MatrixPose
from loci.train.slat.vae_evaluate import PIXELS, POINTS, WHITE, render_psnr
from loci.train.structure.vae import voxel_iou
from loci.train.structure.vae_data import max_pool_voxels

CELLS = 24
"""Cells along each side of a box in which overlap is counted."""


class Prediction(NamedTuple):
    """What is scored of a lifted object.

    Attributes:
        points: spread over its surface, in the object's own frame.
        voxels: x, y, z of those it occupies.
        resolution: of their grid.
        model: what is rendered.
        pose: with a batch axis of one.
    """

    points: Float[Tensor, "n 3"]
    voxels: Int[Tensor, "m 3"]
    resolution: int
    model: Gaussians | Mesh
    pose: MatrixPose

    @classmethod
    def from_asset(cls, asset: Asset) -> Prediction:
        """Points of its mesh, renders of its Gaussians; both of one, where there is only one."""
        shape, model = asset.mesh or asset.gaussians, asset.gaussians or asset.mesh
        assert shape is not None, "an asset has Gaussians or a mesh"
        assert model is not None
        rotation, translation, scale = asset.pose
        pose = MatrixPose(quaternion_to_matrix(rotation), translation, scale[:, 0])
        return cls(surface_points(shape), asset.voxels, asset.resolution, model, pose)

    @property
    def grid(self) -> Bool[Tensor, "r r r"]:
        """Its voxels as a dense grid."""
        grid = torch.zeros((self.resolution,) * 3, dtype=torch.bool)
        grid[self.voxels.long().unbind(1)] = True
        return grid


class Scores(NamedTuple):
    """Scores of one prediction.

    Attributes:
        chamfer: mean distance of the surfaces in the object's frame, whose cube has side 1.
        f_score: at a distance of 0.05, 0 to 1.
        voxel_iou: 0 to 1.
        box_iou: of the oriented bounding boxes in the camera frame, 0 to 1.
        rotation_error: degrees.
        symmetric_rotation_error: degrees to the nearest rotation that looks like the true one.
        psnr: of renders over white from unseen views, dB.
    """

    chamfer: float
    f_score: float
    voxel_iou: float
    box_iou: float
    rotation_error: float
    symmetric_rotation_error: float
    psnr: float


METRICS = Scores._fields
MEDIANS = ("rotation_error", "symmetric_rotation_error")
"""Metrics that are summarised by the median: errors of 180 degrees would dominate a mean."""


def score(prediction: Prediction | None, case: Case, true_pose: MatrixPose) -> Scores:
    """Scores against the true object; without a prediction they are 0, or NaN for distances."""
    if prediction is None:
        blank = torch.ones(3, PIXELS, PIXELS)
        psnr = _mean([render_psnr(blank, view) for view in case.unseen])
        return Scores(torch.nan, 0.0, 0.0, 0.0, torch.nan, torch.nan, psnr)
    surface = _surface(case)
    distance = surface_distance(prediction.points, surface[_sample(surface)])
    truth = max_pool_voxels(case.occupancy, len(case.occupancy) // prediction.resolution)
    renders = [render_psnr(_render(prediction.model, view.camera), view) for view in case.unseen]
    return Scores(
        chamfer=distance.chamfer,
        f_score=distance.f_score,
        voxel_iou=float(voxel_iou(prediction.grid[None], truth[None])),
        psnr=_mean(renders),
        **_pose_scores(prediction, case, true_pose),
    )


def rescore_pose(
    scores: Scores, prediction: Prediction, case: Case, true_pose: MatrixPose
) -> Scores:
    """The scores of the same object with another pose."""
    return scores._replace(**_pose_scores(prediction, case, true_pose))


def surface_points(model: Gaussians | Mesh) -> Float[Tensor, "n 3"]:
    """Points spread over a mesh, or the centres of Gaussians."""
    if isinstance(model, Mesh):
        return mesh_points(model, POINTS, torch.Generator().manual_seed(0))
    return model.positions[_sample(model.positions)]


class OrientedBox(NamedTuple):
    """A box in an object's frame, and the object's pose."""

    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]
    pose: MatrixPose

    @classmethod
    def around(cls, points: Float[Tensor, "n 3"], pose: MatrixPose) -> OrientedBox:
        """The bounding box of points; empty if there are none."""
        if not len(points):
            return cls(torch.zeros(3), torch.zeros(3), pose)
        return cls(points.amin(dim=0), points.amax(dim=0), pose)

    @property
    def volume(self) -> float:
        """In the camera's units."""
        return float(((self.high - self.low) * self.pose.scale[0]).prod())

    def cells(self) -> Float[Tensor, "n 3"]:
        """The centres of equal cells, in the camera frame."""
        steps = (torch.arange(CELLS) + 0.5) / CELLS
        points = self.low + torch.cartesian_prod(steps, steps, steps) * (self.high - self.low)
        rotation, translation, scale = (part[0] for part in self.pose)
        return points * scale @ rotation + translation

    def share_inside(self, points: Float[Tensor, "n 3"]) -> float:
        """The share of points of the camera frame that lie in the box."""
        rotation, translation, scale = (part[0] for part in self.pose)
        local = (points - translation) @ rotation.T / scale
        return float(((local >= self.low) & (local <= self.high)).all(dim=1).float().mean())


def box_iou(a: OrientedBox, b: OrientedBox) -> float:
    """Intersection over union of two boxes, counted in cells; 0 if one is flat."""
    first, second = a.volume, b.volume
    overlap = (first * b.share_inside(a.cells()) + second * a.share_inside(b.cells())) / 2
    union = first + second - overlap
    return overlap / union if first > 0 and second > 0 and union > 0 else 0.0


def _pose_scores(prediction: Prediction, case: Case, true_pose: MatrixPose) -> dict[str, float]:
    box = OrientedBox.around(prediction.points, prediction.pose)
    found, truth = prediction.pose.rotation, true_pose.rotation
    return {
        "box_iou": box_iou(box, OrientedBox.around(_surface(case), true_pose)),
        "rotation_error": float(degrees_apart(found, truth)),
        "symmetric_rotation_error": symmetric_rotation_error(found[0], truth[0], case.symmetries),
    }


def _surface(case: Case) -> Float[Tensor, "n 3"]:
    return case.item.surface[:, :3].float()


def _render(model: Gaussians | Mesh, camera: Camera) -> Float[Tensor, "3 s s"]:
    if isinstance(model, Mesh):
        return render_mesh(model, camera, PIXELS, WHITE, light=None).color
    return render_gaussians(model, camera, PIXELS, WHITE).color


def _sample(points: Float[Tensor, "n 3"]) -> Int[Tensor, "m"]:
    """A fixed random choice of rows, as many as are compared."""
    return torch.randperm(len(points), generator=torch.Generator().manual_seed(1))[:POINTS]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else torch.nan
