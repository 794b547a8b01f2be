"""Pointmaps: the 3-D point that each pixel shows. Reading, checks, normalisation.

In `loci.objects` a pointmap is `[3, h, w]` in the camera frame x left, y up, z forward (that of
PyTorch3D); points that are not finite are unknown.
"""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from loci.errors import LociError
from loci.geometry.camera import CENTER, Camera
from loci.io.intrinsics import is_camera_matrix
from loci.objects.inputs.geometry_files import DEPTH_SCALE, read_geometry


class Normalizer(NamedTuple):
    """normalised = (points - shift) / scale. Pose decoding inverts it."""

    scale: Float[Tensor, "3"]
    shift: Float[Tensor, "3"]

    def apply(self, pointmap: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """The normalised pointmap."""
        return (pointmap - self.shift[:, None, None]) / self.scale[:, None, None]


def from_opencv(pointmap: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """From OpenCV's frame (x right, y down, z forward), which most depth networks use.

    Infinite points, by which depth networks mark unknown pixels, become NaN.
    """
    flipped = pointmap * pointmap.new_tensor([-1.0, -1.0, 1.0])[:, None, None]
    return torch.where(flipped.isfinite().all(dim=0), flipped, torch.nan)


def user_pointmap(points: Tensor, height: int, width: int) -> Float[Tensor, "3 h w"]:
    """A pointmap `[h', w', 3]` at the size of its picture, by nearest neighbour.

    It must be in the frame of this module: no sign is changed.

    Raises:
        LociError: for another shape, or when no point is finite.
    """
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
        raise LociError(f"pointmap: expected shape height x width x 3, got {list(points.shape)}")
    if not points.isfinite().all(dim=-1).any():
        raise LociError("pointmap: expected at least one finite point, found none")
    pointmap = points.float().movedim(-1, 0)
    return F.interpolate(pointmap[None], (height, width), mode="nearest")[0]


def normalizer(pointmap: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 h' w'"]) -> Normalizer:
    """Object-centred and scene-scaled, as SAM 3D Objects normalises pointmaps.

    The shift is the median of the masked points on each axis; the scale is the median over all
    points of the largest absolute coordinate after the shift. Without a finite masked point they
    are 0 and 1.

    Args:
        pointmap: to be normalised.
        mask: above 0.5 on the object, at any size.
    """
    inside = F.interpolate(mask[None].float(), pointmap.shape[1:], mode="nearest")[0, 0] > 0.5
    points = torch.where(pointmap.isfinite(), pointmap, torch.nan).flatten(1)
    masked = points[:, inside.flatten()]
    if not masked.isfinite().all(dim=0).any():
        return Normalizer(pointmap.new_ones(3), pointmap.new_zeros(3))
    shift = masked.nanmedian(dim=1).values
    # As in the published code, the maximum is NaN where any axis is.
    scale = (points - shift[:, None]).abs().amax(dim=0).nanmedian()
    return Normalizer(scale.expand(3).clone(), shift)


PointmapFrame = Literal["pytorch3d", "opencv"]
"""pytorch3d: x left, y up, z forward. opencv: x right, y down, z forward."""

MIN_CORRELATION = 0.5
"""Between columns and x / z: above it a fitted field of view is trusted, below minus it an axis of
the points is mirrored."""
ASPECT_TOLERANCE = 0.05
"""By which the logarithms of the aspect ratios of pointmap and picture may differ."""


def read_pointmap(
    source: str | Path | NDArray[Any] | Tensor,
    frame: PointmapFrame = "pytorch3d",
    fov: float | None = None,
    principal: tuple[float, float] = CENTER,
    depth_scale: float = DEPTH_SCALE,
) -> Float[Tensor, "h w 3"]:
    """A pointmap in the frame of this module, unknown points NaN, in its own unit of length.

    Args:
        source: a `.npy` or `.npz` file, an array or a tensor: points `[h, w, 3]`, or depths
            along z `[h, w]`; or a PNG of 16 bits with depths.
        frame: of the points; ignored for depths.
        fov: horizontal field of view in degrees, needed for depths.
        principal: the principal point of depths, as shares of width and height.
        depth_scale: what a PNG stores for a depth of 1; its zeros are unknown.

    Points that are not finite or not in front of the camera (often zeros) are unknown.

    Raises:
        LociError: for an unreadable file, another shape, or depths without `fov`.
    """
    values = read_geometry(source, depth_scale)
    if values.dtype.kind not in "fiu":
        raise LociError(f"pointmap: {values.dtype}, expected numbers")
    if is_camera_matrix(values):
        raise LociError(
            f"pointmap: a {len(values)}x{len(values)} camera matrix, expected points or depths; "
            "give it as intrinsics"
        )
    points = torch.from_numpy(values.astype(np.float32))
    if points.ndim == 2 and points.numel():
        if fov is None:
            raise LociError("pointmap: depths [height, width], expected the field of view too")
        points = Camera.identity(fov, principal).unproject(points)
    elif points.ndim != 3 or points.shape[-1] != 3 or not points.numel():
        raise LociError(
            f"pointmap: shape {list(points.shape)}, expected [height, width, 3] or [height, width]"
        )
    elif frame == "opencv":
        points = from_opencv(points.movedim(-1, 0)).movedim(0, -1)
    known = points.isfinite().all(dim=-1, keepdim=True) & (points[..., 2:] > 0)
    if not known.any():
        raise LociError(
            "pointmap: no point in front of the camera, expected finite ones with z > 0"
        )
    return torch.where(known, points, torch.nan)


def fitted_pointmap(
    points: Float[Tensor, "h' w' 3"], height: int, width: int
) -> Float[Tensor, "3 h w"]:
    """A pointmap at the size of its picture, by nearest neighbour.

    Raises:
        LociError: when its aspect ratio is not the picture's, or an axis is mirrored.
    """
    rows, columns = points.shape[:2]
    if abs(math.log(rows * width / (columns * height))) > ASPECT_TOLERANCE:
        raise LociError(
            f"pointmap: {columns} x {rows}, expected the shape of the picture, {width} x {height}"
        )
    _check_directions(points)
    return user_pointmap(points, height, width)


def check_covers(
    pointmap: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"], name: str = "mask"
) -> None:
    """Raises LociError when no point inside the mask is known."""
    if not pointmap[:, mask].isfinite().all(dim=0).any():
        raise LociError(
            f"pointmap: every point inside {name} is unknown, expected some finite ones"
        )


def fitted_fov(pointmap: Float[Tensor, "3 h w"]) -> float | None:
    """The horizontal field of view in degrees, from a line fitted to x / z over the columns.

    None where the points do not determine it. The published pipeline drops the intrinsics that its
    depth network finds; this recovers them.
    """
    width = pointmap.shape[-1]
    slope, correlation = _line(*_columns_and_tangents(pointmap.movedim(0, -1)))
    if correlation < MIN_CORRELATION:
        return None
    return math.degrees(2 * math.atan(width / 2 * slope))


MAX_RESIDUAL = 0.02
"""The largest residual of a line fitted to x / z over the columns, as a share of the width. Points
above it are not those of a pinhole camera, and no principal point is fitted."""
SNAP = 0.25
"""Pixels: a principal point that is fitted nearer to the centre is in the centre."""


def fitted_principal(pointmap: Float[Tensor, "3 h w"]) -> tuple[float, float]:
    """The principal point, as shares of width and height: where x and y are 0.

    On each axis from a line fitted to x / z over the columns, or y / z over the rows. The centre
    where the points do not determine it.
    """
    points = pointmap.movedim(0, -1)
    return _principal(points), _principal(points.transpose(0, 1)[..., [1, 0, 2]])


def _principal(points: Float[Tensor, "h w 3"]) -> float:
    """Along the columns."""
    width = points.shape[1]
    columns, tangents = _columns_and_tangents(points)
    slope, correlation = _line(columns, tangents)
    if correlation < MIN_CORRELATION:
        return 0.5
    # The column at which x is 0, as every pixel has it by the slope; columns come negated.
    principal = tangents / slope - columns
    middle = principal.median()
    if float((principal - middle).abs().median()) > MAX_RESIDUAL * width:
        return 0.5
    offset = float(middle) + 0.5 - width / 2
    return 0.5 if abs(offset) < SNAP else 0.5 + offset / width


def _check_directions(points: Float[Tensor, "h w 3"]) -> None:
    across = _line(*_columns_and_tangents(points))[1]
    transposed = points.transpose(0, 1)[..., [1, 0, 2]]
    down = _line(*_columns_and_tangents(transposed))[1]
    for grows, correlation in (("x grows to the right", across), ("y grows downwards", down)):
        if correlation < -MIN_CORRELATION:
            raise LociError(
                f"pointmap: {grows}, expected x left, y up, z forward; for OpenCV's frame set the "
                "pointmap frame to opencv"
            )


def _columns_and_tangents(points: Float[Tensor, "h w 3"]) -> tuple[Tensor, Tensor]:
    """The negated pixel column and x / z of all known points."""
    columns = torch.arange(points.shape[1], dtype=torch.float64).expand(points.shape[:2])
    tangents = points[..., 0].double() / points[..., 2].double()
    known = tangents.isfinite()
    return -columns[known], tangents[known]


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and correlation of a line fit; 0 and 0 for fewer than three values or no variation."""
    if len(x) < 3:
        return 0.0, 0.0
    x, y = x - x.mean(), y - y.mean()
    var_x, var_y, covariance = (x @ x).item(), (y @ y).item(), (x @ y).item()
    if var_x == 0 or var_y < 1e-12 * len(y):
        return 0.0, 0.0
    return covariance / var_x, covariance / math.sqrt(var_x * var_y)


ASSUMED_FOV = 50.0
"""Horizontal field of view in degrees that is assumed where none is known."""
ASSUMED_DISTANCE = 1.0
"""Depth of the object's centre that is assumed without a pointmap."""


def canonical_normalizer(
    mask: Float[Tensor, "1 h w"], fov: float = ASSUMED_FOV, distance: float = ASSUMED_DISTANCE
) -> Normalizer:
    """The normaliser of a picture without a pointmap.

    Its scale is 1 and its shift the point at depth `distance` on the ray through the centre of the
    mask's bounding box. A picture alone does not determine the distance of an object, so poses
    decoded with it are in units of that distance.

    Args:
        mask: 1 inside, at the size of the picture; not empty.
        fov: horizontal field of view in degrees.
        distance: depth of the point along z.
    """
    height, width = mask.shape[-2:]
    rows, columns = torch.nonzero(mask[0] > 0.5, as_tuple=True)
    column, row = ((int(v.min()) + int(v.max()) + 1) / 2 for v in (columns, rows))
    focal = Camera.identity(fov).focal((height, width))
    ray = mask.new_tensor([(width / 2 - column) / focal, (height / 2 - row) / focal, 1.0])
    return Normalizer(mask.new_ones(3), distance * ray)
