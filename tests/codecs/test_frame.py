"""The per-frame codec: its linear start, its streams, and what it writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.errors import LociError

TINY = FrameCodecConfig(patch_size=4, widths=(8, 8), norm_groups=4, latent_channels=4)


@pytest.fixture
def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(TINY).eval()


def clip(frames: int = 3) -> torch.Tensor:
    return torch.rand(2, 3, frames, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes_and_range(codec: FrameCodec) -> None:
    latents = codec.encode(clip())
    assert latents.shape == (2, 4, 3, 2, 3)
    frames = codec.decode(3 * latents)
    assert frames.shape == (2, 3, 3, 16, 24)
    assert frames.abs().max() <= 1


def test_frames_are_independent(codec: FrameCodec) -> None:
    assert codec.frames_are_independent
    frames = clip()
    whole = codec.encode(frames)
    first, state = codec.encode_stream(frames[:, :, :1])
    rest, _ = codec.encode_stream(frames[:, :, 1:], state)
    torch.testing.assert_close(torch.cat([first, rest], dim=2), whole)


def test_linear_start_reconstructs_what_few_components_span(codec: FrameCodec) -> None:
    generator = torch.Generator().manual_seed(2)
    basis = torch.randn(4, 192, generator=generator) * 0.05
    patches = torch.randn(500, 4, generator=generator) @ basis + 0.1
    codec.set_linear_path(patches)
    folded = patches[:6].view(1, 2, 3, 192).permute(0, 3, 1, 2)
    frames = F.pixel_shuffle(folded, 8)
    torch.testing.assert_close(codec.to_frames(codec.to_latents(frames)), frames)


def test_a_linear_encoder_is_principal_components_by_the_root_of_their_deviation() -> None:
    codec = FrameCodec(replace(TINY, linear_encoder=True))
    assert not any(name.startswith("network.encoder") for name in codec.state_dict())
    generator = torch.Generator().manual_seed(2)
    deviations = torch.tensor([9.0, 4.0, 1.0, 0.25])
    basis = torch.linalg.qr(torch.randn(192, 4, generator=generator)).Q.T
    patches = deviations * torch.randn(4000, 4, generator=generator) @ basis + 0.1
    codec.set_linear_path(patches)
    folded = patches.view(-1, 1, 1, 192).permute(0, 3, 1, 2)
    latents = codec.to_latents(F.pixel_shuffle(folded, 8))
    expected = (deviations / deviations.mean()).sqrt()
    torch.testing.assert_close(latents.std((0, 2, 3)), expected, rtol=0.05, atol=0)
    restored = F.pixel_unshuffle(codec.to_frames(latents), 8)
    torch.testing.assert_close(restored, folded, rtol=1e-3, atol=1e-3)


def test_normalization_is_undone_by_decoding(codec: FrameCodec) -> None:
    plain = codec.encode(clip())
    codec.set_normalization((0.5,) * 4, (2.0,) * 4)
    torch.testing.assert_close(codec.encode(clip()), (plain - 0.5) / 2)


def test_saved_and_loaded_it_is_the_same(codec: FrameCodec, tmp_path: Path) -> None:
    codec.set_normalization((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0))
    codec.save_pretrained(tmp_path)
    loaded = FrameCodec.from_pretrained(tmp_path)
    assert loaded.config == replace(codec.config)
    assert torch.equal(loaded.encode(clip()), codec.encode(clip()))


def test_half_the_bytes_in_bfloat16(codec: FrameCodec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path, torch.bfloat16)
    loaded = FrameCodec.from_pretrained(tmp_path)
    assert next(loaded.parameters()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 3, 1, 12, 16), (1, 1, 1, 16, 16)])
def test_bad_frames_are_named(codec: FrameCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(LociError, match="divisible by 8"):
        codec.encode(torch.zeros(shape))


def test_bad_latents_are_named(codec: FrameCodec) -> None:
    with pytest.raises(LociError, match="expected 4"):
        codec.decode(torch.zeros(1, 5, 1, 2, 2))
