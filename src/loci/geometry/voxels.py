"""Where the voxels of a grid lie in the object frame."""

from jaxtyping import Float, Int
from torch import Tensor


def voxel_centers(voxels: Int[Tensor, "*n 3"], resolution: int) -> Float[Tensor, "*n 3"]:
    """The centres of voxels of a grid that fills [-0.5, 0.5]^3; float32.

    Args:
        voxels: x, y, z, from 0 to resolution - 1.
        resolution: voxels along a side of the grid.
    """
    return (voxels.float() + 0.5) / resolution - 0.5
