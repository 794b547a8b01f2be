"""Pose refinement: find the pose under which the decoded shape covers its mask best.

The published pipeline refines layouts with ICP and gradient descent (off by default). An uncertain
flow gets an object's front wrong by quarter turns, from which those do not recover. So this is a
search: turned copies of the shape are fitted to the mask's box and, with a pointmap, to its depths,
and the copy with the best score is taken.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera
from loci.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from loci.geometry.voxels import voxel_centers
from loci.objects.inputs.cleaning import touches_edge
from loci.objects.inputs.observation import Observation
from loci.objects.placement.pose import Pose

BORDER = 2
"""Pixels from the picture's edge within which a mask counts as cut off."""
MAX_POINTS = 1500
"""Voxels of the shape that are projected."""
FIT_ITERATIONS = 4
GRID_MARGIN = 1.25
"""Side of the comparison grid, relative to the longer side of the mask's box."""
MAX_DEPTH_ERROR = 0.25
"""Depth errors are clipped here, in object sizes."""


@dataclass(frozen=True)
class RefinementConfig:
    """The poses that are tried, and how they are scored.

    Attributes:
        turns: rotations about the object's vertical, evenly spaced over the circle.
        tilts: rotations in degrees about the camera's horizontal axis.
        halvings: how often the steps around the best pose are halved, in both directions.
        min_gain: score improvement required before the searched pose replaces the predicted one.
        depth_weight: of the mean depth error (in object sizes) against the mask overlap.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {
        "finer": "halvings",
        "doubt": "min_gain",
        "depths": "depth_weight",
    }

    turns: int = 24
    tilts: tuple[float, ...] = (0.0,)
    halvings: int = 2
    min_gain: float = 0.03
    depth_weight: float = 3.0


class RefinedPose(NamedTuple):
    """A pose and its score.

    Attributes:
        pose: unchanged where it could not be refined.
        score: overlap (IoU) of mask and silhouette, at most 1, less the weighted depth error;
            minus infinity where the pose could not be refined.
    """

    pose: Pose
    score: float


class ComparisonGrid(NamedTuple):
    """The mask and the visible depths in square cells around the mask's box.

    Coordinates are x / z and y / z in the camera frame.

    Attributes:
        low, high: corners of the mask's box, `[2]`.
        corner: of the grid, `[2]`.
        cell_size: side of a cell.
        inside: whether the mask covers a cell.
        depth: mean z of the visible points in a cell, NaN where there are none.
    """

    low: Float[Tensor, "2"]
    high: Float[Tensor, "2"]
    corner: Float[Tensor, "2"]
    cell_size: float
    inside: Bool[Tensor, "g g"]
    depth: Float[Tensor, "g g"]


class _Candidates(NamedTuple):
    """Poses: `[k, 3, 3]`, `[k, 3]`, `[k]`."""

    rotation: Tensor
    translation: Tensor
    scale: Tensor

    def take(self, indices: Tensor | slice) -> "_Candidates":
        return _Candidates(*(part[indices] for part in self))

    @classmethod
    def joined(cls, *parts: "_Candidates") -> "_Candidates":
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def refine_pose(
    pose: Pose,
    voxels: Int[Tensor, "n 3"],
    resolution: int,
    observation: Observation,
    config: RefinementConfig | None = None,
) -> RefinedPose:
    """The pose of one object, turned, moved and scaled to cover its mask.

    Args:
        pose: as decoded, a batch of one with the same scale on all axes.
        voxels: x, y, z of the shape's surface voxels.
        resolution: of their grid.
        observation: of the object. If its mask reaches the picture's edge, the object's extent is
            unknown and the pose is returned unchanged.
        config: the poses that are tried, and how they are scored.
    """
    config = config or RefinementConfig()
    if is_cut_off(observation.mask) or not len(voxels):
        return RefinedPose(pose, -math.inf)
    on_cpu = Pose(*(part.float().cpu() for part in pose))
    sampled = torch.linspace(0, len(voxels) - 1, min(MAX_POINTS, len(voxels))).long()
    points = voxel_centers(voxels.cpu()[sampled], resolution)
    grid = comparison_grid(observation, resolution)
    predicted = _Candidates(
        quaternion_to_matrix(on_cpu.rotation), on_cpu.translation, on_cpu.scale[:, 0]
    )

    # Fits start at the mask and at the visible depth: they do not converge from poses that are far
    # off, as flows of few steps give them.
    visible = float(grid.depth.nanmedian())
    assumed = observation.distance or float(predicted.translation[0, 2])
    depth = visible if math.isfinite(visible) else assumed
    if depth <= 0:
        return RefinedPose(pose, -math.inf)
    center, size = (grid.low + grid.high) / 2, (grid.high - grid.low).max()
    ray = torch.cat([center, torch.ones(1)])
    start = _Candidates(predicted.rotation, (depth * ray)[None], (depth * size)[None])

    def best_of(candidates: _Candidates) -> tuple[_Candidates, float]:
        scores = _scores(candidates, points, grid, config)
        return candidates.take(scores.argmax()[None]), float(scores.max())

    turn, tilts = 2 * math.pi / config.turns, torch.deg2rad(torch.tensor(config.tilts))
    tilt = float(tilts.diff().abs().max()) if len(tilts) > 1 else turn
    angles = torch.cartesian_prod(torch.arange(config.turns) * turn, tilts)
    best, score = best_of(_fitted(_turned(start, angles), points, grid))
    for halving in range(1, config.halvings + 1):
        steps = torch.tensor([-1.0, 0.0, 1.0]) / 2**halving
        nearby = _turned(best, torch.cartesian_prod(steps * turn, steps * tilt))
        better, better_score = best_of(_fitted(nearby, points, grid))
        best, score = (better, better_score) if better_score > score else (best, score)
    unturned = _Candidates.joined(predicted, _fitted(start, points, grid))
    kept, kept_score = best_of(unturned)
    improved = score > kept_score + config.min_gain
    if not improved:
        best, score = kept, kept_score
    scale = best.scale[:, None].expand(-1, 3)
    refined = Pose(matrix_to_quaternion(best.rotation), best.translation, scale)
    refined = Pose(*(part.to(like) for part, like in zip(refined, pose, strict=True)))
    return RefinedPose(refined, score)


def comparison_grid(observation: Observation, side: int) -> ComparisonGrid:
    """The mask and the visible depths in `side` x `side` cells; best as many as the shape has
    voxels along a side."""
    mask, pointmap, fov = observation[:3]
    height, width = mask.shape
    camera = Camera.identity(fov, observation.principal)
    focal = camera.focal((height, width))
    rows, columns = torch.nonzero(mask, as_tuple=True)
    first = torch.stack([columns.min(), rows.min()]).float()
    last = torch.stack([columns.max(), rows.max()]).float() + 1
    middle, extent = (first + last) / 2, float((last - first).max()) * GRID_MARGIN
    pixel = torch.stack([columns, rows], dim=1) + 0.5
    index = ((pixel - middle) / extent + 0.5) * side
    cell = (index[:, 1].long() * side + index[:, 0].long()).clamp(0, side**2 - 1)
    ones = torch.ones(len(cell))
    count = torch.zeros(side**2).index_add_(0, cell, ones)
    depth = torch.full((side**2,), torch.nan)
    if pointmap is not None:
        z = pointmap[2].cpu()[mask]
        known = z.isfinite()
        total = torch.zeros(side**2).index_add_(0, cell[known], z[known])
        number = torch.zeros(side**2).index_add_(0, cell[known], ones[known])
        depth = torch.where(number > 0, total / number.clamp(min=1), torch.nan)
    # x points left and y up, against columns and rows.
    center = torch.tensor(camera.principal_point((height, width)))
    low, high = (center - last) / focal, (center - first) / focal
    corner = (center - middle - extent / 2) / focal
    if extent < 2 * side:
        # Cells smaller than a pixel are inside where their pixel is.
        offsets = (torch.arange(side) + 0.5) / side - 0.5
        column, row = ((offsets * extent + m).long().clamp(min=0) for m in middle)
        inside = mask[row.clamp(max=height - 1)][:, column.clamp(max=width - 1)]
    else:
        inside = (count >= 0.5 * (extent / side) ** 2).view(side, side)
    flipped = (inside.flip(0, 1), depth.view(side, side).flip(0, 1))
    return ComparisonGrid(low, high, corner, extent / side / focal, *flipped)


def _turned(candidates: _Candidates, angles: Float[Tensor, "m 2"]) -> _Candidates:
    """One pose rotated about the object's vertical by the first angle and about the camera's
    horizontal axis through the object's centre by the second, in radians."""
    about_z, about_x = (_rotation(angles[:, i], axis) for i, axis in ((0, 2), (1, 0)))
    rotation = about_z @ candidates.rotation @ about_x
    count = len(angles)
    return _Candidates(
        rotation, candidates.translation.expand(count, 3), candidates.scale.expand(count)
    )


def _rotation(angle: Float[Tensor, "m"], axis: int) -> Float[Tensor, "m 3 3"]:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = torch.eye(3).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, first, second], matrix[:, second, first] = angle.sin(), -angle.sin()
    return matrix


def _fitted(candidates: _Candidates, points: Tensor, grid: ComparisonGrid) -> _Candidates:
    """Moved and scaled until the shape's box is the mask's box and, where depths are known, until
    the shape's front lies at the visible points."""
    rotation, translation, scale = (part.clone() for part in candidates)
    extent, center = (grid.high - grid.low).sum(), (grid.low + grid.high) / 2
    rotated = points @ rotation
    for iteration in range(FIT_ITERATIONS):
        placed = rotated * scale[:, None, None] + translation[:, None]
        depth = placed[..., 2:].clamp(min=1e-3 * float(translation[:, 2].max()))
        projected = placed[..., :2] / depth
        low, high = projected.amin(dim=1), projected.amax(dim=1)
        # Points are voxel centres, on average where the surface crosses the voxel. The clamp is
        # for a single voxel, which has no extent.
        scale = scale * extent / (high - low).sum(dim=1).clamp(min=0.01 * float(extent))
        shift = (center - (low + high) / 2) * translation[:, 2:]
        translation = torch.cat([translation[:, :2] + shift, translation[:, 2:]], dim=1)
        if iteration < FIT_ITERATIONS - 1:
            offset = _depth_offset(_Candidates(rotation, translation, scale), rotated, grid)
            factor = 1 + (offset / translation[:, 2]).clamp(-0.5, 1)
            # Along its ray, and larger with its distance, it looks the same.
            translation, scale = translation * factor[:, None], scale * factor
    return _Candidates(rotation, translation, scale)


def _depth_offset(
    candidates: _Candidates, rotated: Tensor, grid: ComparisonGrid
) -> Float[Tensor, "k"]:
    """Visible depth less the depth of the shape's front, the median over cells."""
    front = _front(candidates, rotated, grid)
    offsets = torch.where(front.isfinite(), grid.depth - front, torch.nan).flatten(1)
    return offsets.nanmedian(dim=1).values.nan_to_num(0.0)


def _front(
    candidates: _Candidates, rotated: Tensor, grid: ComparisonGrid
) -> Float[Tensor, "k g g"]:
    """The least depth of the shape in every cell, infinite where it is not."""
    placed = rotated * candidates.scale[:, None, None] + candidates.translation[:, None]
    depth = placed[..., 2].clamp(min=1e-6)
    projected = placed[..., :2] / depth[..., None]
    side = len(grid.inside)
    index = ((projected - grid.corner) / grid.cell_size).floor().long()
    in_grid = ((index >= 0) & (index < side)).all(dim=-1)
    index = index.clamp(0, side - 1)
    cell = index[..., 1] * side + index[..., 0]
    front = torch.full((len(placed), side**2), torch.inf)
    front.scatter_reduce_(1, cell, torch.where(in_grid, depth, torch.inf), "amin")
    return front.view(-1, side, side)


def _scores(
    candidates: _Candidates, points: Tensor, grid: ComparisonGrid, config: RefinementConfig
) -> Float[Tensor, "k"]:
    """IoU of mask and silhouette, less the weighted depth error."""
    front = _front(candidates, points @ candidates.rotation, grid)
    covered = _closed(front.isfinite())
    intersection = (covered & grid.inside).flatten(1).sum(dim=1)
    union = (covered | grid.inside).flatten(1).sum(dim=1)
    iou = intersection / union.clamp(min=1)
    error = (grid.depth - front).abs() / candidates.scale[:, None, None]
    error = torch.where(front.isfinite(), error.clamp(max=MAX_DEPTH_ERROR), torch.nan)
    return iou - config.depth_weight * error.flatten(1).nanmean(dim=1).nan_to_num(0.0)


def _closed(covered: Bool[Tensor, "k g g"]) -> Bool[Tensor, "k g g"]:
    """Morphological closing: fills gaps of one cell between voxels."""
    dilated = F.max_pool2d(covered[:, None].float(), 3, 1, 1)
    return (F.max_pool2d(-dilated, 3, 1, 1) < -0.5)[:, 0]


def is_cut_off(mask: Bool[Tensor, "h w"]) -> bool:
    """Whether a mask reaches the picture's edge, so that the object's extent is unknown."""
    return touches_edge(mask.cpu().numpy(), BORDER)
