"""Where an object stands: from layout latents to rotation, translation and scale."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix

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
"""How translation and scale are coded; the released pipeline uses the first."""


class Pose(NamedTuple):
    """Object to camera: p_camera = (p_object * scale) @ R + translation, with row vectors.

    The camera frame is x left, y up, z forward; lengths are in the units of the pointmap. The
    object stands z up in [-0.5, 0.5]^3.
    """

    rotation: Float[Tensor, "b 4"]
    """Unit quaternion (w, x, y, z) of R, w >= 0."""
    translation: Float[Tensor, "b 3"]
    scale: Float[Tensor, "b 3"]

    def place(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Points of the object in the camera frame.

        The rows are multiplied by R from the right, as released: this turns them by the inverse of
        the rotation that the quaternion means for column vectors.
        """
        matrix = quaternion_to_matrix(self.rotation)
        return (points * self.scale[:, None]) @ matrix + self.translation[:, None]


def decode_pose(
    latents: Mapping[str, Tensor],
    scene_scale: Float[Tensor, "b 3"],
    scene_shift: Float[Tensor, "b 3"],
    coarsening: float = 1,
    convention: Convention = "ScaleShiftInvariant",
) -> Pose:
    """The pose of sampled layout latents `[b, 1, channels]` (SAM 3D Objects, 11).

    Args:
        latents: by released name; `shape` is ignored.
        scene_scale: of the pointmap's normaliser. Not used in DisparitySpace, where it is 1.
        scene_shift: of the pointmap's normaliser. Not used in ApparentSize.
        coarsening: the factor by which the voxels were shrunk (`voxels.coarsen`).
        convention: the code of translation and scale.
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
    scale = size.mean(dim=1, keepdim=True).expand(-1, 3) * coarsening
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
        Latents by released name. `translation_scale`, which this convention does not use, is 0.
    """
    code = torch.cat([rotation[:, :, 0], rotation[:, :, 1]], dim=1)
    mean, std = code.new_tensor(ROTATION_MEAN), code.new_tensor(ROTATION_STD)
    raw = {
        ROTATION: (code - mean) / std,
        "translation": (translation - scene_shift) / scene_scale,
        "scale": (scale / scene_scale).log(),
        "translation_scale": torch.zeros_like(scale[:, :1]),
    }
    return {name: value[:, None] for name, value in raw.items()}


def rotation_matrix(code: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
    """Gram-Schmidt on the two halves of a 6-d code; the results are the matrix's columns."""
    first = F.normalize(code[:, :3], dim=1)
    second = code[:, 3:] - (first * code[:, 3:]).sum(dim=1, keepdim=True) * first
    second = F.normalize(second, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def _like(values: tuple[float, ...], raw: Mapping[str, Tensor]) -> Tensor:
    return raw[ROTATION].new_tensor(values)
