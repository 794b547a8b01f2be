"""Quaternions (w, x, y, z) and the matrices that rotate column vectors."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def quaternion_to_matrix(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix of a quaternion of any length but 0."""
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 4"]:
    """The unit quaternion of a rotation matrix, with w >= 0."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    # Each row is the quaternion times four times one of its components. That of the largest
    # component is the most exact.
    rows = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, zy - yz, xz - zx, yx - xy], dim=-1),
            torch.stack([zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx], dim=-1),
            torch.stack([xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy], dim=-1),
            torch.stack([yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz], dim=-1),
        ],
        dim=-2,
    )
    largest = rows.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    row = rows.take_along_dim(largest[:, None, None], dim=1)[:, 0]
    quaternion = F.normalize(row, dim=-1)
    return torch.where(quaternion[:, :1] < 0, -quaternion, quaternion)


def quaternion_invert(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """The inverse of a unit quaternion."""
    return quaternion * quaternion.new_tensor([1.0, -1.0, -1.0, -1.0])


def quaternion_multiply(
    first: Float[Tensor, "*b 4"], second: Float[Tensor, "*b 4"]
) -> Float[Tensor, "*b 4"]:
    """The Hamilton product: rotates by `second`, then by `first`."""
    a, b, c, d = first.unbind(-1)
    w, x, y, z = second.unbind(-1)
    product = [
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    ]
    return torch.stack(product, dim=-1)


def degrees_apart(
    first: Float[Tensor, "b 3 3"], second: Float[Tensor, "b 3 3"]
) -> Float[Tensor, "b"]:
    """The angle of the rotation between two rotations, 0 to 180 degrees."""
    both = first.mT @ second
    cosine = (both.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
