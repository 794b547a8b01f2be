"""How much an approximated lift differs from an exact one, in what a user sees of an object."""

import torch
from jaxtyping import Int
from torch import Tensor

from loci.geometry.rotations import degrees_apart, quaternion_to_matrix
from loci.objects.asset import Asset


def difference(found: Asset, exact: Asset) -> str:
    """One line: voxels (IoU), and the pose's shift, turn and size against those of an exact run."""
    shift = (found.pose.translation - exact.pose.translation).norm()
    size = float(exact.pose.scale[0, 0])
    ratio = float(found.pose.scale[0, 0]) / size
    rotations = [quaternion_to_matrix(asset.pose.rotation) for asset in (found, exact)]
    turn = float(degrees_apart(*rotations))
    shared = shared_voxels(found.voxels, exact.voxels)
    return (
        f"against an exact run: {shared:.0%} of the voxels the same "
        f"(IoU), moved by {float(shift) / size:.1%} of the object's size, turned by {turn:.1f} "
        f"degrees, size {ratio - 1:+.1%}"
    )


def shared_voxels(first: Int[Tensor, "n 3"], second: Int[Tensor, "m 3"]) -> float:
    """Shared voxels of two shapes in the same grid, over those of either."""
    both = torch.cat([first.unique(dim=0), second.unique(dim=0)])
    counts = both.unique(dim=0, return_counts=True)[1]
    return float((counts > 1).sum() / len(counts))
