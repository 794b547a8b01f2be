"""Pointmaps: a point in space for every pixel.

Everywhere in loci's objects a pointmap is `[3, h, w]` in the camera frame x left, y up, z forward
(PyTorch3D's); a point that is not finite is invalid.
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
from loci.geometry.camera import Camera


class Normaliser(NamedTuple):
    """normalised = (points - shift) / scale; kept to place the object afterwards."""

    scale: Float[Tensor, "3"]
    shift: Float[Tensor, "3"]

    def apply(self, pointmap: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """The pointmap in object-centred units."""
        return (pointmap - self.shift[:, None, None]) / self.scale[:, None, None]


def from_opencv(pointmap: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """From the frame x right, y down, z forward, as depth networks give it.

    Infinite points, which mark what a depth network does not know, become NaN.
    """
    turned = pointmap * pointmap.new_tensor([-1.0, -1.0, 1.0])[:, None, None]
    return torch.where(turned.isfinite().all(dim=0), turned, torch.nan)


def user_pointmap(points: Tensor, height: int, width: int) -> Float[Tensor, "3 h w"]:
    """A user's `[h', w', 3]` pointmap, brought to the size of the picture by nearest neighbour.

    It must already be in the frame of this module: no sign is changed.

    Raises:
        LociError: for another shape, or when no point is finite.
    """
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
        raise LociError(f"pointmap: expected shape height x width x 3, got {list(points.shape)}")
    if not points.isfinite().all(dim=-1).any():
        raise LociError("pointmap: expected at least one finite point, found none")
    pointmap = points.float().movedim(-1, 0)
    return F.interpolate(pointmap[None], (height, width), mode="nearest")[0]


def normaliser(pointmap: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 h' w'"]) -> Normaliser:
    """Centre on the object, measure by the scene (SAM 3D Objects, 2.2).

    The shift is the median of the masked points on each axis; the scale is the median over all
    points of their largest distance on an axis. Without a finite masked point: 1 and 0. `mask`
    is 1 inside; a mask of 0 and 1/255, which a boolean mask becomes when it is taken for bytes,
    has no inside.
    """
    inside = F.interpolate(mask[None].float(), pointmap.shape[1:], mode="nearest")[0, 0] > 0.5
    points = torch.where(pointmap.isfinite(), pointmap, torch.nan).flatten(1)
    masked = points[:, inside.flatten()]
    if not masked.isfinite().all(dim=0).any():
        return Normaliser(pointmap.new_ones(3), pointmap.new_zeros(3))
    shift = masked.nanmedian(dim=1).values
    # Like the released code's maximum, amax is NaN where any axis is.
    scale = (points - shift[:, None]).abs().amax(dim=0).nanmedian()
    return Normaliser(scale.expand(3).clone(), shift)


Frame = Literal["pytorch3d", "opencv"]
"""pytorch3d: x left, y up, z forward, the frame of `loci.objects.inputs.pointmap`. opencv: x right, y
down, z forward, as depth networks and most datasets give it."""

SURE = 0.5
"""From this correlation on, points are taken to be laid out against the pixels."""
SAME_SHAPE = 0.05


def read_pointmap(
    source: str | Path | NDArray[Any] | Tensor, frame: Frame = "pytorch3d", fov: float | None = None
) -> Float[Tensor, "h w 3"]:
    """Geometry in our camera frame, unknown points NaN; any unit of length.

    Args:
        source: a `.npy` file or an array: points `[h, w, 3]`, or depths along z `[h, w]`.
        frame: of the points; depths have none.
        fov: horizontal field of view in degrees that depths were seen with.

    Points that are not finite, or not in front of the camera, are unknown: zeros mark them often.

    Raises:
        LociError: for an unreadable file, another shape, or depths without `fov`.
    """
    values = _array(source)
    if values.dtype.kind not in "fiu":
        raise LociError(f"pointmap: {values.dtype}, expected numbers")
    points = torch.from_numpy(values.astype(np.float32))
    if points.ndim == 2 and points.numel():
        if fov is None:
            raise LociError("pointmap: depths [height, width], expected the field of view too")
        points = Camera.identity(fov).unproject(points)
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
    """A pointmap at the size of its picture, by nearest neighbour as released.

    Raises:
        LociError: when it has not the picture's shape, or its points run against the pixels.
    """
    rows, columns = points.shape[:2]
    if abs(math.log(rows * width / (columns * height))) > SAME_SHAPE:
        raise LociError(
            f"pointmap: {columns} x {rows}, expected the shape of the picture, {width} x {height}"
        )
    _check_directions(points)
    return user_pointmap(points, height, width)


def check_covers(
    pointmap: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"], name: str = "mask"
) -> None:
    """Raises LociError when no point of the object is known."""
    if not pointmap[:, mask].isfinite().all(dim=0).any():
        raise LociError(
            f"pointmap: every point inside {name} is unknown, expected some finite ones"
        )


def fitted_fov(pointmap: Float[Tensor, "3 h w"]) -> float | None:
    """The horizontal field of view in degrees that a pointmap was seen with; None if it does not
    tell.

    The published pipeline loses the camera that its depth network finds; the points still know.
    """
    width = pointmap.shape[-1]
    slope, correlation = _line(*_columns_and_tangents(pointmap.movedim(0, -1)))
    if correlation < SURE:
        return None
    return math.degrees(2 * math.atan(width / 2 * slope))


def _check_directions(points: Float[Tensor, "h w 3"]) -> None:
    across = _line(*_columns_and_tangents(points))[1]
    turned = points.transpose(0, 1)[..., [1, 0, 2]]
    down = _line(*_columns_and_tangents(turned))[1]
    for grows, correlation in (("x grows to the right", across), ("y grows downwards", down)):
        if correlation < -SURE:
            raise LociError(
                f"pointmap: {grows}, expected x left, y up, z forward; OpenCV's frame must be named"
            )


def _columns_and_tangents(points: Float[Tensor, "h w 3"]) -> tuple[Tensor, Tensor]:
    """Of all known points, how far left their pixel is and x / z."""
    columns = torch.arange(points.shape[1], dtype=torch.float64).expand(points.shape[:2])
    tangents = points[..., 0].double() / points[..., 2].double()
    known = tangents.isfinite()
    return -columns[known], tangents[known]


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and correlation; 0 and 0 for too few or too equal values."""
    if len(x) < 3:
        return 0.0, 0.0
    x, y = x - x.mean(), y - y.mean()
    spread_x, spread_y, both = (x @ x).item(), (y @ y).item(), (x @ y).item()
    if spread_x == 0 or spread_y < 1e-12 * len(y):
        return 0.0, 0.0
    return both / spread_x, both / math.sqrt(spread_x * spread_y)


def _array(source: str | Path | NDArray[Any] | Tensor) -> NDArray[Any]:
    if isinstance(source, Tensor):
        return source.detach().float().cpu().numpy()
    if isinstance(source, np.ndarray):
        return source
    try:
        values = np.load(source, allow_pickle=False)
    except OSError as error:
        raise LociError(f"{source}: cannot be read ({error.strerror or 'damaged'})") from error
    except (ValueError, EOFError, SyntaxError, UnicodeDecodeError) as error:
        raise LociError(f"{source}: damaged or no numbers, expected an array in .npy") from error
    if not isinstance(values, np.ndarray):
        raise LociError(f"{source}: several arrays, expected one in .npy")
    return values


NOMINAL_FOV = 50.0
"""Degrees from the left edge of a picture to the right one, where nothing else is known."""
NOMINAL_DISTANCE = 1.0


def nominal_scene(
    mask: Float[Tensor, "1 h w"], fov: float = NOMINAL_FOV, distance: float = NOMINAL_DISTANCE
) -> Normaliser:
    """What the pose of a lone picture's object is measured by: scale 1, and as shift the point at
    depth `distance` on the ray through the middle of the mask's bounding box.

    A lone picture does not tell how far away an object is. Poses decoded in this scene place it
    where the picture shows it, in units of its distance: all lengths may be multiplied by one
    number and the picture stays the same.

    Args:
        mask: 1 inside, at the size of the picture; at least one pixel is inside.
        fov: horizontal field of view in degrees.
        distance: depth of the point, along z.

    Returns:
        A normaliser in the frame x left, y up, z forward.
    """
    height, width = mask.shape[-2:]
    rows, columns = torch.nonzero(mask[0] > 0.5, as_tuple=True)
    column, row = ((int(v.min()) + int(v.max()) + 1) / 2 for v in (columns, rows))
    focal = Camera.identity(fov).focal((height, width))
    ray = mask.new_tensor([(width / 2 - column) / focal, (height / 2 - row) / focal, 1.0])
    return Normaliser(mask.new_ones(3), distance * ray)


class Placement(NamedTuple):
    """p_camera = (p_object * scale) @ rotation + translation, with row vectors."""

    rotation: Float[Tensor, "b 3 3"]
    translation: Float[Tensor, "b 3"]
    scale: Float[Tensor, "b"]


def nominal_pose(
    true: Placement,
    fov: Float[Tensor, "b"],
    nominal_fov: float = NOMINAL_FOV,
    distance: float = NOMINAL_DISTANCE,
) -> Placement:
    """The pose that looks the same in the nominal scene: what a lone picture can tell of the true
    one, seen with the field of view `fov` (degrees).

    The object's centre stays at its pixel and is put at depth `distance`, its size in the picture
    stays, and it is turned with its ray, so that the camera sees the same side of it.
    """
    wide = math.tan(math.radians(nominal_fov) / 2)
    zoom = wide / torch.tan(torch.deg2rad(fov) / 2)
    depth = true.translation[:, 2]
    ray = true.translation / depth[:, None]
    seen = torch.cat([ray[:, :2] * zoom[:, None], ray[:, 2:]], dim=1)
    turned = true.rotation @ turn_onto(ray, seen)
    return Placement(turned, distance * seen, true.scale * distance * zoom / depth)


def turn_onto(first: Float[Tensor, "b 3"], second: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """The smallest rotation R with first @ R parallel to second; they are less than 180 degrees
    apart."""
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
    # Two reflections: the first takes a to -a, the second takes -a to b.
    return _reflection(a) @ _reflection(F.normalize(a + b, dim=1))


def _reflection(normal: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    eye = torch.eye(3, dtype=normal.dtype, device=normal.device)
    return eye - 2 * normal[:, :, None] * normal[:, None]
