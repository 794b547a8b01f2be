import math

import pytest
import torch
from torch import Tensor

from loci.nn.sparse.conv import SparseConv1
from loci.nn.sparse.voxels import Voxels
from loci.objects.models.slat_decoders import (
    GaussianDecoder,
    GaussianDecoderConfig,
    MeshDecoder,
    MeshDecoderConfig,
    SubdivideBlock,
    TorsoConfig,
    perturbation,
    radical_inverse,
)
from tests.objects.models.test_slat_flow import ball

TORSO = TorsoConfig(dim=32, blocks=2, heads=2, window=4, resolution=8)


@pytest.fixture(autouse=True)
def _no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def gaussian_decoder() -> GaussianDecoder:
    return GaussianDecoder(GaussianDecoderConfig(TORSO, gaussians=4)).eval()


def mesh_decoder() -> MeshDecoder:
    return MeshDecoder(MeshDecoderConfig(TORSO, narrowing=(2, 4), norm_groups=4)).eval()


def two_items() -> tuple[Voxels, list[Voxels], list[Tensor]]:
    places = [Voxels(ball(6)), Voxels(ball(4))]
    both = Voxels(torch.cat([ball(6), ball(4, item=1)]))
    return both, places, [torch.randn(len(p), 8) for p in places]


def test_preserved_odd_blocks_look_through_windows_shifted_by_half() -> None:
    """Trap of SAM 3D Objects, 16: even blocks keep to the windows, odd ones shift without wrap."""
    decoder = gaussian_decoder()
    # 3 and 4 lie in different windows of side 4, but in one when both are moved by 2.
    voxels = Voxels(torch.tensor([[0, 3, 0, 0], [0, 4, 0, 0]]))
    latents = torch.randn(2, 8)
    changed = latents.clone()
    changed[1] += 1

    def first_token(blocks: int, given: Tensor) -> Tensor:
        kept = decoder.blocks
        decoder.blocks = kept[:blocks]
        token = decoder.tokens(given, voxels)[0]
        decoder.blocks = kept
        return token

    assert torch.equal(first_token(1, latents), first_token(1, changed))
    assert not torch.allclose(first_token(2, latents), first_token(2, changed), atol=1e-4)


def test_raw_zeros_mean_the_stated_gaussian() -> None:
    decoder, voxels = gaussian_decoder(), Voxels(torch.tensor([[0, 0, 4, 7]]))
    (gaussians,) = decoder.gaussians(torch.zeros(1, 4 * 14), voxels)
    assert len(gaussians) == 4
    assert gaussians.opacities.tolist() == pytest.approx([0.1] * 4)
    assert gaussians.colors.flatten().tolist() == [0.5] * 12
    assert gaussians.rotations.tolist() == [[1, 0, 0, 0]] * 4
    assert gaussians.scales.flatten().tolist() == pytest.approx([math.hypot(0.004, 0.0009)] * 12)
    center = (torch.tensor([0.0, 4, 7]) + 0.5) / 8 - 0.5
    # Hammersley points of the cube, which reaches 1.5 half voxels from the centre.
    points = torch.tensor([[g / 4, radical_inverse(g, 2), radical_inverse(g, 3)] for g in range(4)])
    assert torch.allclose(gaussians.positions, center + (2 * points - 1) / 16, atol=1e-6)


def test_digits_are_mirrored_at_the_point() -> None:
    assert radical_inverse(6, 2) == 0.375
    assert radical_inverse(5, 3) == pytest.approx(2 / 3 + 1 / 9)
    assert perturbation(3, 1.5).shape == (3, 3)


def test_gaussians_stay_near_their_voxels() -> None:
    decoder, voxels = gaussian_decoder(), Voxels(ball(6))
    (gaussians,) = decoder.gaussians(100 * torch.randn(len(voxels), 4 * 14), voxels)
    centers = (voxels.coords[:, None, 1:] + 0.5) / 8 - 0.5
    away = (gaussians.positions.view(-1, 4, 3) - centers).abs()
    assert away.max() <= 0.75 / 8 + 1e-6
    assert gaussians.scales.min() >= 0.0009 - 1e-9


def test_every_item_gets_its_gaussians_and_its_mesh() -> None:
    both, places, latents = two_items()
    gaussians, meshes = gaussian_decoder(), mesh_decoder()
    for place, latent, splat, (feats, voxels) in zip(
        places,
        latents,
        gaussians.decode(torch.cat(latents), both),
        (meshes(latent, place) for place, latent in zip(places, latents, strict=True)),
        strict=True,
    ):
        (alone,) = gaussians.decode(latent, place)
        assert torch.allclose(splat.positions, alone.positions, atol=1e-5)
        assert torch.allclose(splat.opacity_logits, alone.opacity_logits, atol=1e-4)
        assert len(voxels) == 64 * len(place)
        assert feats.shape == (len(voxels), 101)
    together, _ = meshes(torch.cat(latents), both)
    apart = torch.cat([meshes(*pair)[0] for pair in zip(latents, places, strict=True)])
    assert torch.allclose(together, apart, atol=1e-4)
    assert [len(m.vertices) > 0 for m in meshes.decode(torch.cat(latents), both)] == [True, True]


def test_preserved_the_mesh_decoders_skip_rereads_its_weight() -> None:
    """Trap of SAM 3D Objects, 16: with silent convolutions only the re-read skip is left."""
    block, voxels = SubdivideBlock(8, 4, 4), Voxels(ball(4))
    for parameter in block.out_layers[3].parameters():
        parameter.zero_()
    assert isinstance(block.skip_connection, SparseConv1)
    feats, skip = torch.randn(len(voxels), 8), block.skip_connection.conv
    expected = feats @ skip.weight.flatten().view(8, 4) + skip.bias
    assert torch.allclose(block(feats, voxels)[::8], expected, atol=1e-6)
    assert torch.allclose(block(feats, voxels)[7::8], expected, atol=1e-6)


def test_bfloat16_keeps_to_its_type() -> None:
    voxels, latents = Voxels(ball(4)), torch.randn(len(ball(4)), 8)
    for decoder in (gaussian_decoder(), mesh_decoder()):
        full, low = decoder(latents, voxels), decoder.bfloat16()(latents, voxels)
        full, low = (out[0] if isinstance(out, tuple) else out for out in (full, low))
        assert low.dtype == torch.float32
        assert (low - full).abs().max() < 0.15 * full.abs().max()
        (result,) = decoder.decode(latents, voxels)
        tensor = getattr(result, "vertices", getattr(result, "positions", None))
        assert tensor is not None
        assert tensor.dtype == torch.float32


def test_latents_must_be_as_many_as_voxels() -> None:
    with pytest.raises(ValueError, match="3 latents for"):
        gaussian_decoder()(torch.randn(3, 8), Voxels(ball(4)))
