"""Layout refinement: the pose under which the shape that was found covers its mask the best.

In the place of SAM 3D Objects, 13 (mesh, ICP and gradient descent, off as released) a search that
needs no start near the end: a flow that is unsure of an object's front is wrong by whole quarter
turns. Turned shapes are fitted to the mask's box and, with a pointmap, to its depths; the one that
covers mask and depths best is taken.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera
from loci.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from loci.objects.placement.pose import Pose

BORDER = 2
"""Pixels from the picture's edge within which a mask counts as cut off."""
POINTS = 1500
FITS = 4
MARGIN = 1.25
FAR = 0.25
"""In object sizes: more than this is as wrong as can be."""


@dataclass(frozen=True)
class RefinementConfig:
    """What is tried.

    Attributes:
        turns: about the object's vertical, evenly around the circle.
        tilts: degrees by which the whole is tipped towards the camera.
        finer: how often the steps around the best are halved, in both directions.
        doubt: by how much more of mask and depths another pose has to cover than the flow's own.
        depths: what mean depth errors count beside the mask, per object size.
    """

    turns: int = 24
    tilts: tuple[float, ...] = (0.0,)
    finer: int = 2
    doubt: float = 0.03
    depths: float = 3.0


class Observation(NamedTuple):
    """What a picture shows of an object.

    Attributes:
        mask: of the whole picture.
        pointmap: in the camera frame x left, y up, z forward, NaN where unknown; or None.
        fov: horizontal field of view of the picture in degrees.
        distance: the depth of the object's middle where that is agreed on, as in the nominal scene.
        rgb: the whole picture in [0, 1], for what reads colours off it.
    """

    mask: Bool[Tensor, "h w"]
    pointmap: Float[Tensor, "3 h w"] | None
    fov: float
    distance: float | None = None
    rgb: Float[Tensor, "3 h w"] | None = None


class Refined(NamedTuple):
    """A pose, and how well the shape covers mask and depths under it.

    Attributes:
        pose: as it was given, where there is nothing to go by.
        mark: overlap of mask and silhouette, at most 1, less the errors in depth; minus infinity
            where there is nothing to go by.
    """

    pose: Pose
    mark: float


class Cells(NamedTuple):
    """What poses are compared with: cells of a square around the mask.

    Attributes:
        low, high: of the mask's box, `[2]`, as x / z and y / z in the camera frame.
        corner, cell: of the square of cells, in the same units.
        inside: which cells the mask covers.
        depth: mean z of the visible points in each cell, NaN where there are none.
    """

    low: Float[Tensor, "2"]
    high: Float[Tensor, "2"]
    corner: Float[Tensor, "2"]
    cell: float
    inside: Bool[Tensor, "g g"]
    depth: Float[Tensor, "g g"]


class _Poses(NamedTuple):
    """Candidates: `[k, 3, 3]`, `[k, 3]`, `[k]`."""

    rotation: Tensor
    translation: Tensor
    scale: Tensor

    def take(self, rows: Tensor | slice) -> "_Poses":
        return _Poses(*(part[rows] for part in self))

    @classmethod
    def joined(cls, *parts: "_Poses") -> "_Poses":
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def refine_pose(
    pose: Pose,
    voxels: Int[Tensor, "n 3"],
    resolution: int,
    seen: Observation,
    config: RefinementConfig | None = None,
) -> Refined:
    """The pose of one object, turned, moved and sized such that it covers its mask.

    Args:
        pose: as decoded, with a batch axis of one; scale the same on all axes.
        voxels: x, y, z of the shape's surface voxels.
        resolution: of their grid.
        seen: what the picture shows. A mask that reaches the picture's edge is cut off, and tells
            nothing of where the object ends: the pose is returned as it is.
        config: what is tried.
    """
    config = config or RefinementConfig()
    if cut_off(seen.mask) or not len(voxels):
        return Refined(pose, -math.inf)
    given, pose = pose, Pose(*(part.float().cpu() for part in pose))
    chosen = torch.linspace(0, len(voxels) - 1, min(POINTS, len(voxels))).long()
    points = (voxels.cpu()[chosen].float() + 0.5) / resolution - 0.5
    cells = cells_of(seen, resolution)
    own = _Poses(quaternion_to_matrix(pose.rotation), pose.translation, pose.scale[:, 0])

    # Fits begin where the mask is and at the depth of what is seen: from too far off, as a flow of
    # few steps may put it, they would not get there.
    visible = float(cells.depth.nanmedian())
    depth = visible if math.isfinite(visible) else seen.distance or float(own.translation[0, 2])
    if depth <= 0:
        return Refined(given, -math.inf)
    middle, size = (cells.low + cells.high) / 2, (cells.high - cells.low).max()
    ray = torch.cat([middle, torch.ones(1)])
    start = _Poses(own.rotation, (depth * ray)[None], (depth * size)[None])

    def best_of(poses: _Poses) -> tuple[_Poses, float]:
        marks = _marks(poses, points, cells, config)
        return poses.take(marks.argmax()[None]), float(marks.max())

    turn, tilts = 2 * math.pi / config.turns, torch.deg2rad(torch.tensor(config.tilts))
    tilt = float(tilts.diff().abs().max()) if len(tilts) > 1 else turn
    grid = torch.cartesian_prod(torch.arange(config.turns) * turn, tilts)
    best, most = best_of(_fitted(_turned(start, grid), points, cells))
    for number in range(1, config.finer + 1):
        around = torch.tensor([-1.0, 0.0, 1.0]) / 2**number
        near = _turned(best, torch.cartesian_prod(around * turn, around * tilt))
        better, more = best_of(_fitted(near, points, cells))
        best, most = (better, more) if more > most else (best, most)
    kept, enough = best_of(_Poses.joined(own, _fitted(start, points, cells)))
    best, mark = (best, most) if most > enough + config.doubt else (kept, enough)
    scale = best.scale[:, None].expand(-1, 3)
    found = Pose(matrix_to_quaternion(best.rotation), best.translation, scale)
    pose = Pose(*(part.to(like) for part, like in zip(found, given, strict=True)))
    return Refined(pose, mark)


def cells_of(seen: Observation, cells: int) -> Cells:
    """The mask and the visible depths in `cells` x `cells`, best as many as the shape has voxels
    along a side."""
    mask, pointmap, fov = seen[:3]
    height, width = mask.shape
    focal = Camera.identity(fov).focal((height, width))
    rows, columns = torch.nonzero(mask, as_tuple=True)
    first = torch.stack([columns.min(), rows.min()]).float()
    last = torch.stack([columns.max(), rows.max()]).float() + 1
    middle, side = (first + last) / 2, float((last - first).max()) * MARGIN
    pixel = torch.stack([columns, rows], dim=1) + 0.5
    index = ((pixel - middle) / side + 0.5) * cells
    flat = (index[:, 1].long() * cells + index[:, 0].long()).clamp(0, cells**2 - 1)
    ones = torch.ones(len(flat))
    count = torch.zeros(cells**2).index_add_(0, flat, ones)
    depth = torch.full((cells**2,), torch.nan)
    if pointmap is not None:
        z = pointmap[2].cpu()[mask]
        known = z.isfinite()
        total = torch.zeros(cells**2).index_add_(0, flat[known], z[known])
        number = torch.zeros(cells**2).index_add_(0, flat[known], ones[known])
        depth = torch.where(number > 0, total / number.clamp(min=1), torch.nan)
    # x points left and y up: columns and rows run against them.
    centre = torch.tensor([width / 2, height / 2])
    low, high = (centre - last) / focal, (centre - first) / focal
    corner = (centre - middle - side / 2) / focal
    # A cell smaller than a pixel is inside where its pixel is.
    if side < 2 * cells:
        places = (torch.arange(cells) + 0.5) / cells - 0.5
        column, row = ((places * side + m).long().clamp(min=0) for m in middle)
        inside = mask[row.clamp(max=height - 1)][:, column.clamp(max=width - 1)]
    else:
        inside = (count >= 0.5 * (side / cells) ** 2).view(cells, cells)
    flipped = (inside.flip(0, 1), depth.view(cells, cells).flip(0, 1))
    return Cells(low, high, corner, side / cells / focal, *flipped)


def _turned(poses: _Poses, angles: Float[Tensor, "m 2"]) -> _Poses:
    """One pose about the object's vertical by the first angle and about the camera's horizontal
    through its middle by the second, in radians."""
    about_z, about_x = (_rotation(angles[:, i], axis) for i, axis in ((0, 2), (1, 0)))
    rotation = about_z @ poses.rotation @ about_x
    count = len(angles)
    return _Poses(rotation, poses.translation.expand(count, 3), poses.scale.expand(count))


def _rotation(angle: Float[Tensor, "m"], axis: int) -> Float[Tensor, "m 3 3"]:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = torch.eye(3).repeat(len(angle), 1, 1)
    turn[:, first, first] = turn[:, second, second] = angle.cos()
    turn[:, first, second], turn[:, second, first] = angle.sin(), -angle.sin()
    return turn


def _fitted(poses: _Poses, points: Tensor, cells: Cells) -> _Poses:
    """Moved and sized until the box around the shape is the mask's; in depth, if it is known,
    until the shape's front lies where the visible points do."""
    rotation, translation, scale = (part.clone() for part in poses)
    wanted, middle = (cells.high - cells.low).sum(), (cells.low + cells.high) / 2
    turned = points @ rotation
    for number in range(FITS):
        place = turned * scale[:, None, None] + translation[:, None]
        depth = place[..., 2:].clamp(min=1e-3 * float(translation[:, 2].max()))
        flat = place[..., :2] / depth
        low, high = flat.amin(dim=1), flat.amax(dim=1)
        # The surface lies anywhere in a voxel that it touches: in the middle of it, on average.
        # A single one has no size to tell anything by.
        scale = scale * wanted / (high - low).sum(dim=1).clamp(min=0.01 * float(wanted))
        shift = (middle - (low + high) / 2) * translation[:, 2:]
        translation = torch.cat([translation[:, :2] + shift, translation[:, 2:]], dim=1)
        if number < FITS - 1:
            behind = _behind(_Poses(rotation, translation, scale), turned, cells)
            nearer = 1 + (behind / translation[:, 2]).clamp(-0.5, 1)
            # Along its ray, and larger with its distance: it looks the same.
            translation, scale = translation * nearer[:, None], scale * nearer
    return _Poses(rotation, translation, scale)


def _behind(poses: _Poses, turned: Tensor, cells: Cells) -> Float[Tensor, "k"]:
    """By how much visible points lie behind the shape's front, the median over cells."""
    front = _front(poses, turned, cells)
    away = torch.where(front.isfinite(), cells.depth - front, torch.nan).flatten(1)
    return away.nanmedian(dim=1).values.nan_to_num(0.0)


def _front(poses: _Poses, turned: Tensor, cells: Cells) -> Float[Tensor, "k g g"]:
    """The least depth of the shape in every cell, infinite where it is not."""
    place = turned * poses.scale[:, None, None] + poses.translation[:, None]
    depth = place[..., 2].clamp(min=1e-6)
    flat = place[..., :2] / depth[..., None]
    side = len(cells.inside)
    index = ((flat - cells.corner) / cells.cell).floor().long()
    known = ((index >= 0) & (index < side)).all(dim=-1)
    index = index.clamp(0, side - 1)
    cell = index[..., 1] * side + index[..., 0]
    front = torch.full((len(place), side**2), torch.inf)
    front.scatter_reduce_(1, cell, torch.where(known, depth, torch.inf), "amin")
    return front.view(-1, side, side)


def _marks(
    poses: _Poses, points: Tensor, cells: Cells, config: RefinementConfig
) -> Float[Tensor, "k"]:
    """Overlap of mask and silhouette, less the errors in depth."""
    front = _front(poses, points @ poses.rotation, cells)
    covered = _closed(front.isfinite())
    both = (covered & cells.inside).flatten(1).sum(dim=1)
    either = (covered | cells.inside).flatten(1).sum(dim=1)
    marks = both / either.clamp(min=1)
    error = (cells.depth - front).abs() / poses.scale[:, None, None]
    error = torch.where(front.isfinite(), error.clamp(max=FAR), torch.nan)
    return marks - config.depths * error.flatten(1).nanmean(dim=1).nan_to_num(0.0)


def _closed(covered: Bool[Tensor, "k g g"]) -> Bool[Tensor, "k g g"]:
    """Without the holes of a cell's width between voxels."""
    wide = F.max_pool2d(covered[:, None].float(), 3, 1, 1)
    return (F.max_pool2d(-wide, 3, 1, 1) < -0.5)[:, 0]


def cut_off(mask: Bool[Tensor, "h w"]) -> bool:
    """Whether a mask reaches the picture's edge: where the object ends is then not known."""
    edges = (mask[:BORDER], mask[-BORDER:], mask[:, :BORDER], mask[:, -BORDER:])
    return any(bool(edge.any()) for edge in edges)
