"""A user's own geometry: pointmaps and depth maps, read, brought into our frame and checked."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.objects.pointmap import from_opencv, user_pointmap

Frame = Literal["pytorch3d", "opencv"]
"""pytorch3d: x left, y up, z forward, the frame of `loci.objects.pointmap`. opencv: x right, y
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
