import pytest
import torch
from torch.nn import functional as F

from loci.objects.structure_decoder import (
    ChannelNorm,
    StructureDecoder,
    StructureDecoderConfig,
    latent_cube,
    occupied,
    pixel_shuffle,
)


def test_levels_double_the_resolution() -> None:
    config = StructureDecoderConfig(latent_channels=3, channels=(8, 4), blocks_per_level=1)
    with torch.no_grad():
        logits = StructureDecoder(config)(torch.randn(2, 27, 3))
    assert logits.shape == (2, 1, 6, 6, 6)


def test_tokens_are_in_row_major_order() -> None:
    tokens = torch.arange(27.0).view(1, 27, 1)
    assert latent_cube(tokens)[0, 0, 1, 2, 0] == 9 + 6
    with pytest.raises(ValueError, match="26 shape tokens do not make a cube"):
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
