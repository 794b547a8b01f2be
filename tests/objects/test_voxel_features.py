"""What the latent encoder is told about a voxel."""

import torch

from loci.layers.sparse import Voxels
from loci.objects.voxel_features import (
    cell_corners,
    cells,
    corner_distances,
    surface_features,
)


def test_points_fall_into_voxels_and_cells() -> None:
    points = torch.tensor([[-0.5, -0.5, -0.5], [-0.26, 0.01, 0.49], [0.6, 0.5, 0.0]])
    voxel, cell, place = cells(points, 2)
    assert voxel.tolist() == [[0, 0, 0], [0, 1, 1], [1, 1, 1]]
    assert cell.tolist() == [0, 1, 6]
    assert place[0].tolist() == [-1, -1, -1]
    torch.testing.assert_close(place[1], torch.tensor([0.92, -0.92, 0.92]), rtol=0, atol=1e-5)


def test_cells_are_numbered_as_finer_voxels() -> None:
    coords = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]])
    fine = Voxels(coords).finer.coords[:, 1:]
    middles = (fine + 0.5) / 4 - 0.5
    voxel, cell, place = cells(middles, 2)
    assert torch.equal(voxel, coords[:, 1:].repeat_interleave(8, dim=0))
    assert torch.equal(cell, torch.arange(8).repeat(2))
    assert place.abs().max() < 1e-6


def test_features_are_means_and_zero_where_nothing_is() -> None:
    surface = torch.tensor([[0.5, 0, 0, 1, 0, 0, 1, 0, 0.5], [-0.5, 0, 1, 0, 1, 0, 0, 0, 0.5]])
    found = surface_features(surface, torch.tensor([1, 1]), torch.tensor([3, 3]), 2)
    assert found.shape == (2, 80)
    assert found[0].abs().max() == 0
    expected = torch.tensor([1, 0, 0, 0.5, 0.5, 0.5, 0, 0, -1, 0])
    torch.testing.assert_close(found[1].view(8, 10)[3], expected)
    assert found[1].view(8, 10)[[0, 1, 2, 4, 5, 6, 7]].abs().max() == 0


def test_corners_are_those_of_the_cells() -> None:
    axis = torch.arange(9).float()
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    coords = torch.tensor([[0, 0, 0], [1, 0, 0]])
    field = x + 0.1 * y + 0.01 * z - 2
    corners = corner_distances(field, coords)
    assert corners[0, 0] == -2
    assert corners[1, -1] == 2  # clipped
    each = cell_corners(corner_distances(field * 8, coords, steps=8))
    fine = Voxels(torch.cat([torch.zeros(2, 1).long(), coords], dim=1)).finer.coords[:, 1:]
    for number in range(8):
        at = fine + torch.tensor([number & 1, number >> 1 & 1, number >> 2 & 1])
        torch.testing.assert_close(each[:, number], field[at.unbind(1)].clamp(-2, 2))
