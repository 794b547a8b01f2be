"""Quaternions (w, x, y, z) and the matrices that rotate column vectors; by roma (x, y, z, w)."""

import roma
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def quaternion_to_matrix(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix of a quaternion of any length but 0."""
    return roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(F.normalize(quaternion, dim=-1)))


def matrix_to_quaternion(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """The unit quaternion of a rotation matrix, with w >= 0."""
    quaternion = roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(matrix))
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_invert(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """The inverse of a unit quaternion."""
    return quaternion * quaternion.new_tensor([1.0, -1.0, -1.0, -1.0])


def quaternion_multiply(
    first: Float[Tensor, "*b 4"], second: Float[Tensor, "*b 4"]
) -> Float[Tensor, "*b 4"]:
    """The Hamilton product: rotates by `second`, then by `first`."""
    factors = roma.quat_wxyz_to_xyzw(first), roma.quat_wxyz_to_xyzw(second)
    return roma.quat_xyzw_to_wxyz(roma.quat_product(*factors))
