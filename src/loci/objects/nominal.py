"""The scene that is assumed around an object when there is no pointmap."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera
from loci.objects.pointmap import Normaliser

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
