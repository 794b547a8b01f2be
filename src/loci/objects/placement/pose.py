"""Poses: decoded from layout latents, encoded for training, and in the canonical scene.

The canonical scene stands in for the true one where a picture comes without a pointmap: the camera
has a field of view of 50 degrees and the object's centre is at depth 1.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import CENTER
from loci.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from loci.objects.inputs.pointmap import ASSUMED_DISTANCE, ASSUMED_FOV

ROTATION = "6drotation_normalized"
ROTATION_MEAN = (
    -0.06366084883674913,
    0.008438224692279752,
    0.00017084786438302483,
    0.0007126610473540038,
    -0.0030916726538816417,
    0.5166093753457688,
)
ROTATION_STD = (
    0.6656971967514863,
    0.6787012271867754,
    0.30345010594844524,
    0.4394504420678794,
    0.39817973931717104,
    0.6176286868761914,
)

Convention = Literal["ScaleShiftInvariant", "ApparentSize", "DisparitySpace"]
"""How translation and scale are encoded; the published pipeline uses the first."""


class Pose(NamedTuple):
    """Object to camera: p_camera = (p_object * scale) @ R + translation, with row vectors.

    The camera frame is x left, y up, z forward, in the units of the pointmap. The object frame is
    z up; the object lies in [-0.5, 0.5]^3.
    """

    rotation: Float[Tensor, "b 4"]
    """Unit quaternion (w, x, y, z) of R, w >= 0."""
    translation: Float[Tensor, "b 3"]
    scale: Float[Tensor, "b 3"]

    def place(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Points of the object in the camera frame.

        As published, R multiplies row vectors from the right, which is the inverse of the rotation
        that the quaternion stands for with column vectors.
        """
        matrix = quaternion_to_matrix(self.rotation)
        return (points * self.scale[:, None]) @ matrix + self.translation[:, None]


def decode_pose(
    latents: Mapping[str, Tensor],
    scene_scale: Float[Tensor, "b 3"],
    scene_shift: Float[Tensor, "b 3"],
    downsample_factor: float = 1,
    convention: Convention = "ScaleShiftInvariant",
) -> Pose:
    """The pose of sampled layout latents `[b, 1, channels]`.

    Args:
        latents: by published name; `shape` is ignored.
        scene_scale: of the pointmap's normaliser. Not used in DisparitySpace, where it is 1.
        scene_shift: of the pointmap's normaliser. Not used in ApparentSize.
        downsample_factor: by which the object shrank in its grid (`downsample_voxels`).
        convention: of translation and scale.
    """
    raw = {name: latents[name][:, 0].float() for name in latents if name != "shape"}
    translation, apparent = raw["translation"], raw["translation_scale"].exp()
    size = raw["scale"].exp()
    if convention == "ScaleShiftInvariant":
        translation, size = translation * scene_scale + scene_shift, size * scene_scale
    elif convention == "ApparentSize":
        translation, size = (part * scene_scale * apparent for part in (translation, size))
    elif convention == "DisparitySpace":
        depth = scene_shift[:, 2:].exp() * apparent
        sideways = (translation + scene_shift)[:, :2] * depth
        translation, size = torch.cat([sideways, depth], dim=1), size * depth
    else:
        raise ValueError(f"unknown pose convention {convention}")
    scale = size.mean(dim=1, keepdim=True).expand(-1, 3) * downsample_factor
    matrix = rotation_matrix(raw[ROTATION] * _like(ROTATION_STD, raw) + _like(ROTATION_MEAN, raw))
    return Pose(matrix_to_quaternion(matrix), translation, scale)


def encode_pose(
    rotation: Float[Tensor, "b 3 3"],
    translation: Float[Tensor, "b 3"],
    scale: Float[Tensor, "b 3"],
    scene_scale: Float[Tensor, "b 3"],
    scene_shift: Float[Tensor, "b 3"],
) -> dict[str, Float[Tensor, "b 1 c"]]:
    """The layout latents that `decode_pose` turns into this pose, in ScaleShiftInvariant.

    Args:
        rotation: R of `p_camera = (p_object * scale) @ R + translation`.
        translation: in the units of the pointmap.
        scale: camera units per object unit, above 0; decoding takes the mean of its axes.
        scene_scale: of the pointmap's normaliser, as for decoding.
        scene_shift: of the pointmap's normaliser.

    Returns:
        Latents by published name. `translation_scale`, which this convention does not use, is 0.
    """
    six_d = torch.cat([rotation[:, :, 0], rotation[:, :, 1]], dim=1)
    mean, std = six_d.new_tensor(ROTATION_MEAN), six_d.new_tensor(ROTATION_STD)
    raw = {
        ROTATION: (six_d - mean) / std,
        "translation": (translation - scene_shift) / scene_scale,
        "scale": (scale / scene_scale).log(),
        "translation_scale": torch.zeros_like(scale[:, :1]),
    }
    return {name: value[:, None] for name, value in raw.items()}


def rotation_matrix(six_d: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
    """The 6-D representation of rotations to matrices: Gram-Schmidt gives the first two columns."""
    first = F.normalize(six_d[:, :3], dim=1)
    second = six_d[:, 3:] - (first * six_d[:, 3:]).sum(dim=1, keepdim=True) * first
    second = F.normalize(second, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


class MatrixPose(NamedTuple):
    """A `Pose` with its rotation as a matrix and one scale for all axes."""

    rotation: Float[Tensor, "b 3 3"]
    translation: Float[Tensor, "b 3"]
    scale: Float[Tensor, "b"]


def canonical_pose(
    true_pose: MatrixPose,
    fov: Float[Tensor, "b"],
    canonical_fov: float = ASSUMED_FOV,
    distance: float = ASSUMED_DISTANCE,
) -> MatrixPose:
    """The pose in the canonical scene that looks like the true one.

    The object's centre keeps its pixel and moves to depth `distance`; the object keeps its size in
    the picture and turns with its ray, so that the camera sees the same side of it.

    Args:
        true_pose: in front of the camera.
        fov: horizontal field of view in degrees of the camera that sees the true pose.
        canonical_fov: that of the canonical scene.
        distance: depth of the object's centre in the canonical scene.
    """
    half_width = math.tan(math.radians(canonical_fov) / 2)
    zoom = half_width / torch.tan(torch.deg2rad(fov) / 2)
    depth = true_pose.translation[:, 2]
    ray = true_pose.translation / depth[:, None]
    canonical_ray = torch.cat([ray[:, :2] * zoom[:, None], ray[:, 2:]], dim=1)
    rotation = true_pose.rotation @ rotation_between(ray, canonical_ray)
    return MatrixPose(rotation, distance * canonical_ray, true_pose.scale * distance * zoom / depth)


def pose_for_camera(
    pose: Pose, fov: float, principal: tuple[float, float] = CENTER, aspect: float = 1.0
) -> Pose:
    """A pose of the canonical scene, for another camera that sees the same picture.

    Args:
        pose: a batch of one.
        fov: horizontal field of view in degrees of the other camera.
        principal: its principal point, as shares of the picture's width and height.
        aspect: height over width of the picture.
    """
    if (fov == ASSUMED_FOV and principal == CENTER) or pose.translation[0, 2] <= 0:
        return pose
    canonical = MatrixPose(quaternion_to_matrix(pose.rotation), pose.translation, pose.scale[:, 0])
    other = canonical_pose(canonical, pose.scale.new_tensor([ASSUMED_FOV]), canonical_fov=fov)
    if principal != CENTER:
        # The same pixel is on another ray: x / z = (principal column - column) / focal length.
        width = 2 * math.tan(math.radians(fov) / 2)
        across, down = (share - 0.5 for share in principal)
        offset = pose.scale.new_tensor([[across * width, down * aspect * width, 0.0]])
        ray = other.translation / other.translation[:, 2:]
        turn = rotation_between(ray, ray + offset)
        translation = other.translation[:, 2:] * (ray + offset)
        other = MatrixPose(other.rotation @ turn, translation, other.scale)
    scale = other.scale[:, None].expand(-1, 3)
    return Pose(matrix_to_quaternion(other.rotation), other.translation, scale)


def rotation_between(
    first: Float[Tensor, "b 3"], second: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 3 3"]:
    """The smallest rotation R with first @ R parallel to second; they must be less than 180
    degrees apart."""
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
    # Two reflections: the first takes a to -a, the second takes -a to b.
    return _reflection(a) @ _reflection(F.normalize(a + b, dim=1))


def _reflection(normal: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    eye = torch.eye(3, dtype=normal.dtype, device=normal.device)
    return eye - 2 * normal[:, :, None] * normal[:, None]


def _like(values: tuple[float, ...], raw: Mapping[str, Tensor]) -> Tensor:
    return raw[ROTATION].new_tensor(values)
