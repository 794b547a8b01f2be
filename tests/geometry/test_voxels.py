"""Voxels of a grid fill the unit cube around the origin."""

import torch

from loci.geometry.voxels import voxel_centers


def test_voxels_fill_the_unit_cube() -> None:
    corners = torch.tensor([[0, 0, 0], [3, 0, 1]])
    assert voxel_centers(corners, 4).tolist() == [[-0.375] * 3, [0.375, -0.375, -0.125]]
