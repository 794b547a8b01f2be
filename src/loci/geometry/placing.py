"""Placing objects in a scene by their poses, and merging them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from loci.errors import LociError
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.rotations import (
    matrix_to_quaternion,
    quaternion_invert,
    quaternion_multiply,
    quaternion_to_matrix,
)

SCALE_FLOOR = 1.1
"""Least scale of a placed Gaussian, over that of the smallest a decoder makes."""


def place_points(
    points: Float[Tensor, "n 3"],
    rotation: Float[Tensor, "4"],
    translation: Float[Tensor, "3"],
    scale: Float[Tensor, "3"],
) -> Float[Tensor, "n 3"]:
    """`(points * scale) @ R + translation` for row vectors, R being the quaternion's matrix."""
    matrix = quaternion_to_matrix(rotation[None])[0]
    return (points * scale) @ matrix + translation


def place_gaussians(
    gaussians: Gaussians,
    rotation: Float[Tensor, "4"],
    translation: Float[Tensor, "3"],
    scale: Float[Tensor, "3"],
    smallest: float = 0.0,
) -> Gaussians:
    """Gaussians of an object in the frame of its pose.

    Args:
        gaussians: in the object's frame.
        rotation: unit quaternion w, x, y, z. Multiplying row vectors by its matrix rotates them by
            its inverse, so Gaussian rotations q become conj(rotation) * q.
        translation: in the units of the target frame.
        scale: along the object's axes; must be isotropic.
        smallest: the decoder's least standard deviation, in the object's frame. Scales are clipped
            to 1.1 times it, as in SAM 3D Objects.

    Raises:
        LociError: for a scale that differs between axes.
    """
    factor = scale.mean()
    if not torch.allclose(scale, factor.expand(3), rtol=1e-3):
        raise LociError(f"a scale of {scale.tolist()}, expected the same along all axes")
    inverse = quaternion_invert(torch.nn.functional.normalize(rotation, dim=0))
    return Gaussians(
        place_points(gaussians.positions, rotation, translation, scale),
        gaussians.harmonics,
        (gaussians.scales * factor).clamp(min=float(SCALE_FLOOR * smallest * factor)),
        quaternion_multiply(inverse.expand_as(gaussians.quaternions), gaussians.rotations),
        gaussians.opacity_logits,
    )


def turn_gaussians(gaussians: Gaussians, matrix: Float[Tensor, "3 3"]) -> Gaussians:
    """Gaussians in another frame: `points @ matrix`, which must be a rotation."""
    rotation = matrix_to_quaternion(matrix[None])[0].to(gaussians.positions)
    zero, one = gaussians.positions.new_zeros(3), gaussians.positions.new_ones(3)
    return place_gaussians(gaussians, rotation, zero, one)


def place_mesh(
    mesh: Mesh,
    rotation: Float[Tensor, "4"],
    translation: Float[Tensor, "3"],
    scale: Float[Tensor, "3"],
) -> Mesh:
    """A mesh in the frame of its pose; learned normals are dropped."""
    placed = place_points(mesh.vertices, rotation, translation, scale)
    normals = mesh.normals
    if normals is not None:
        rotated = place_points(normals, rotation, torch.zeros_like(translation), 1 / scale)
        normals = torch.nn.functional.normalize(rotated, dim=1)
    return Mesh(placed, mesh.faces, mesh.colors, texture=mesh.texture, normals=normals)


def merge_gaussians(parts: Sequence[Gaussians]) -> Gaussians:
    """Concatenates Gaussians. Raises LociError for none."""
    if not parts:
        raise LociError("no Gaussians to merge, expected at least one object")
    names = ("positions", "harmonics", "scales", "quaternions", "opacity_logits")
    return Gaussians(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def merge_meshes(parts: Sequence[Mesh]) -> Mesh:
    """Concatenates meshes; colours are kept if all have them, textures are dropped.

    Raises LociError for none.
    """
    if not parts:
        raise LociError("no meshes to merge, expected at least one object")
    faces, first = [], 0
    for part in parts:
        faces.append(part.faces + first)
        first += len(part.vertices)
    colors = [part.colors for part in parts if part.colors is not None]
    return Mesh(
        torch.cat([part.vertices for part in parts]),
        torch.cat(faces),
        torch.cat(colors) if len(colors) == len(parts) else None,
    )
