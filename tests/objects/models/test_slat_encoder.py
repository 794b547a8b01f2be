"""The encoder of stage 2."""

from pathlib import Path

import pytest
import torch

from loci.errors import LociError
from loci.nn.sparse.voxels import Voxels
from loci.objects.models.slat_decoders import TorsoConfig
from loci.objects.models.slat_encoder import (
    SlatEncoder,
    SlatEncoderConfig,
    cell_corners,
    cells,
    corner_distances,
    kl,
    surface_features,
)

SMALL = SlatEncoderConfig(TorsoConfig(channels=5, dim=16, blocks=2, heads=2, resolution=8), 3)


def voxels() -> Voxels:
    coords = torch.cartesian_prod(
        torch.arange(2), torch.arange(4), torch.arange(3), torch.tensor([5])
    )
    return Voxels(coords)


def test_it_gives_mean_and_spread_of_each_voxel() -> None:
    torch.manual_seed(0)
    encoder, places = SlatEncoder(SMALL), voxels()
    mean, log_variance = encoder(torch.randn(len(places), 5), places)
    assert mean.shape == log_variance.shape == (24, 3)
    assert log_variance.mean() < -2  # latents begin almost undisturbed


def test_items_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    encoder, places = SlatEncoder(SMALL), voxels()
    features = torch.randn(len(places), 5)
    mean = encoder(features, places)[0]
    features[12:] = 0
    torch.testing.assert_close(encoder(features, places)[0][:12], mean[:12])


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    encoder, places = SlatEncoder(SMALL), voxels()
    encoder.save_pretrained(tmp_path)
    loaded = SlatEncoder.from_pretrained(tmp_path)
    features = torch.randn(len(places), 5)
    assert torch.equal(loaded(features, places)[0], encoder(features, places)[0])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LociError, match="no such weights"):
        SlatEncoder.from_pretrained(tmp_path)


def test_divergence_of_known_distributions() -> None:
    assert kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    assert kl(torch.full((1, 1), 2.0), torch.zeros(1, 1)) == 2


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
