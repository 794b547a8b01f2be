from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from loci.io.config_files import config_from_dict
from loci.objects.models.structure_vae import (
    ChannelNorm,
    Posterior,
    StructureDecoder,
    StructureDecoderConfig,
    StructureEncoder,
    StructureEncoderConfig,
    latent_cube,
    occupied,
    pixel_shuffle,
    space_to_depth,
)


def test_levels_double_the_resolution() -> None:
    config = StructureDecoderConfig(latent_channels=3, channels=(8, 4), blocks_per_level=1)
    with torch.no_grad():
        logits = StructureDecoder(config)(torch.randn(2, 27, 3))
    assert logits.shape == (2, 1, 6, 6, 6)


def test_tokens_are_in_row_major_order() -> None:
    tokens = torch.arange(27.0).view(1, 27, 1)
    assert latent_cube(tokens)[0, 0, 1, 2, 0] == 9 + 6
    with pytest.raises(ValueError, match="26 shape tokens, expected the cube of an integer"):
        latent_cube(tokens[:, :26])


def test_the_children_of_a_voxel_come_from_its_channels() -> None:
    x = torch.arange(16.0).view(1, 16, 1, 1, 1).repeat(1, 1, 2, 3, 4)
    out = pixel_shuffle(x)
    assert out.shape == (1, 2, 4, 6, 8)
    for c, i, j, k in ((0, 0, 0, 1), (0, 1, 0, 0), (1, 0, 1, 1)):
        assert (out[0, c, i::2, j::2, k::2] == ((c * 2 + i) * 2 + j) * 2 + k).all()


def test_each_voxel_is_normed_over_its_channels_in_float32() -> None:
    norm, x = ChannelNorm(6).bfloat16(), torch.randn(1, 6, 2, 2, 2).bfloat16()
    ours = norm(x)
    assert ours.dtype == torch.bfloat16
    expected = F.layer_norm(x[0, :, 1, 0, 1].float(), (6,)).bfloat16()
    assert torch.equal(ours[0, :, 1, 0, 1], expected)


def test_occupied_voxels_are_listed_in_order() -> None:
    logits = torch.full((2, 1, 3, 3, 3), -1.0)
    for b, x, y, z in ((1, 0, 0, 2), (0, 2, 1, 0), (0, 0, 1, 2)):
        logits[b, 0, x, y, z] = 0.1
    logits[1, 0, 1, 1, 1] = 0.0
    coords = occupied(logits)
    assert coords.dtype == torch.int32
    assert coords.tolist() == [[0, 0, 1, 2], [0, 2, 1, 0], [1, 0, 0, 2]]


CONFIG = StructureEncoderConfig(latent_channels=3, channels=(8, 4), patch_size=2)


def test_every_cube_of_voxels_becomes_a_token() -> None:
    with torch.no_grad():
        posterior = StructureEncoder(CONFIG)(torch.rand(2, 1, 12, 12, 12).round())
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 27, 3)
    assert CONFIG.factor == 4
    assert StructureEncoderConfig().factor == 8


def test_tokens_are_in_row_major_order_of_structure_encoder() -> None:
    """What changes in one corner of the cube changes only the tokens around it."""
    config = StructureEncoderConfig(3, (8, 4), patch_size=2, blocks_per_level=0, middle_blocks=0)
    encoder = StructureEncoder(config).requires_grad_(False)
    empty = torch.zeros(1, 1, 32, 32, 32)
    corner = empty.clone()
    corner[..., :4, 28:, 12:16] = 1
    apart = (encoder(corner).mean - encoder(empty).mean)[0].abs().sum(dim=-1).view(8, 8, 8)
    assert apart[0, 7, 3] > 0
    changed = torch.argwhere(apart > 1e-6)
    assert (changed - torch.tensor([0, 7, 3])).abs().max() == 3


def test_a_resolution_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="10 voxels a side, expected a multiple of 4"):
        StructureEncoder(CONFIG)(torch.zeros(1, 1, 10, 10, 10))


def test_configurations_of_encoders_load_by_former_names() -> None:
    former = {"config": "StructureEncoderConfig", "channels": [8, 4], "fold": 2}
    assert config_from_dict(StructureEncoderConfig, former).patch_size == 2


def test_space_to_depth_undoes_the_decoders_shuffle() -> None:
    x = torch.randn(2, 16, 2, 3, 4)
    assert torch.equal(space_to_depth(pixel_shuffle(x), 2), x)


def test_space_to_depth_keeps_the_order_of_a_cubes_voxels() -> None:
    x = torch.arange(64.0).view(1, 1, 4, 4, 4)
    assert torch.equal(space_to_depth(x, 4)[0, :, 0, 0, 0], torch.arange(64.0))


def test_the_divergence_of_a_standard_normal_is_nothing() -> None:
    zero = torch.zeros(2, 5, 3)
    assert torch.equal(Posterior(zero, zero).divergence(), torch.zeros(2))
    assert (Posterior(zero + 1, zero).divergence() == 0.5).all()
    drawn = Posterior(zero + 4, zero - 50).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, zero + 4)


def test_a_saved_encoder_comes_back_the_same(tmp_path: Path) -> None:
    encoder = StructureEncoder(CONFIG)
    encoder.save_pretrained(tmp_path)
    again = StructureEncoder.from_pretrained(tmp_path)
    assert again.config == CONFIG
    assert all(torch.equal(again.state_dict()[k], v) for k, v in encoder.state_dict().items())
