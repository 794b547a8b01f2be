"""The encoder of stage 2."""

from pathlib import Path

import pytest
import torch

from loci.errors import LociError
from loci.layers.sparse import Voxels
from loci.objects.decoder_torso import TorsoConfig
from loci.objects.latent_encoder import LatentEncoder, LatentEncoderConfig, kl

SMALL = LatentEncoderConfig(TorsoConfig(channels=5, dim=16, blocks=2, heads=2, resolution=8), 3)


def voxels() -> Voxels:
    coords = torch.cartesian_prod(
        torch.arange(2), torch.arange(4), torch.arange(3), torch.tensor([5])
    )
    return Voxels(coords)


def test_it_gives_mean_and_spread_of_each_voxel() -> None:
    torch.manual_seed(0)
    encoder, places = LatentEncoder(SMALL), voxels()
    mean, log_variance = encoder(torch.randn(len(places), 5), places)
    assert mean.shape == log_variance.shape == (24, 3)
    assert log_variance.mean() < -2  # latents begin almost undisturbed


def test_items_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    encoder, places = LatentEncoder(SMALL), voxels()
    features = torch.randn(len(places), 5)
    mean = encoder(features, places)[0]
    features[12:] = 0
    torch.testing.assert_close(encoder(features, places)[0][:12], mean[:12])


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    encoder, places = LatentEncoder(SMALL), voxels()
    encoder.save_pretrained(tmp_path)
    loaded = LatentEncoder.from_pretrained(tmp_path)
    features = torch.randn(len(places), 5)
    assert torch.equal(loaded(features, places)[0], encoder(features, places)[0])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LociError, match="no such weights"):
        LatentEncoder.from_pretrained(tmp_path)


def test_divergence_of_known_distributions() -> None:
    assert kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    assert kl(torch.full((1, 1), 2.0), torch.zeros(1, 1)) == 2
