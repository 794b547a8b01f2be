"""The video autoencoder as a stream: equal to the plain computation, and forkable."""

from pathlib import Path

import pytest
import torch

from loci.codecs import wan
from loci.codecs.tiles import tiles
from loci.codecs.wan import WanCodec, WanCodecConfig
from loci.codecs.wan_parts import early_features, encoder_history
from loci.errors import LociError

TINY = WanCodecConfig(base_dim=4, blocks_per_level=1)


@pytest.fixture(scope="module")
def codec() -> WanCodec:
    torch.manual_seed(0)
    return WanCodec(TINY).eval().requires_grad_(False)


def clip(frames: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def statistics() -> tuple[torch.Tensor, torch.Tensor]:
    shape = (1, 16, 1, 1, 1)
    return (
        torch.tensor(TINY.latents_mean).view(shape),
        torch.tensor(TINY.latents_std).view(shape),
    )


def test_equals_the_library_run_plainly(codec: WanCodec) -> None:
    mean, std = statistics()
    latents = codec.encode(clip(13))
    plain = (codec.network.encode(clip(13)).latent_dist.mode() - mean) / std
    torch.testing.assert_close(latents, plain, rtol=0, atol=1e-6)
    decoded = codec.network.decode(latents * std + mean).sample
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=0, atol=2e-5)


def test_encoding_in_pieces_is_exact(codec: WanCodec) -> None:
    frames = clip(17)
    whole = codec.encode(frames)
    parts, state, start = [], None, 0
    for count in (5, 8, 4):
        latents, state = codec.encode_stream(frames[:, :, start : start + count], state)
        parts.append(latents)
        start += count
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_decoding_in_pieces_is_exact(codec: WanCodec) -> None:
    latents = torch.randn(1, 16, 5, 2, 2, generator=torch.Generator().manual_seed(2))
    whole = codec.decode(latents)
    assert whole.shape == (1, 3, 17, 16, 16)
    parts, state = [], None
    for piece in latents.split([1, 1, 3], dim=2):
        frames, state = codec.decode_stream(piece, state)
        parts.append(frames)
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_an_old_state_can_be_forked(codec: WanCodec) -> None:
    frames = clip(9)
    _, state = codec.encode_stream(frames[:, :, :1])
    kept = {name: tensor.clone() for name, tensor in state.items()}
    left, _ = codec.encode_stream(frames[:, :, 1:5], state)
    codec.encode_stream(frames[:, :, 5:9], state)
    again, _ = codec.encode_stream(frames[:, :, 1:5], state)
    assert torch.equal(left, again)
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[name], state[name]) for name in kept)


def test_decoding_can_be_forked_after_the_first_latent(codec: WanCodec) -> None:
    latents = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    first, state = codec.decode_stream(latents[:, :, :1])
    codec.decode_stream(latents[:, :, 2:], state)
    rest, _ = codec.decode_stream(latents[:, :, 1:], state)
    assert torch.equal(torch.cat([first, rest], dim=2), codec.decode(latents))


@pytest.mark.parametrize("count", [0, 2, 4, 6])
def test_other_lengths_are_refused(codec: WanCodec, count: int) -> None:
    with pytest.raises(LociError, match=rf"{count} frames to encode: expected 1 \+ 4k"):
        codec.encode(clip(17)[:, :, :count])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_other_lengths_are_refused_later_too(codec: WanCodec, count: int) -> None:
    frames = clip(17)
    _, state = codec.encode_stream(frames[:, :, :1])
    with pytest.raises(LociError, match=f"{count} frames to encode: expected 4k"):
        codec.encode_stream(frames[:, :, :count], state)


def test_other_sizes_are_refused(codec: WanCodec) -> None:
    with pytest.raises(LociError, match="12x16 pixels"):
        codec.encode(torch.zeros(1, 3, 1, 12, 16))


def test_saved_and_loaded_it_is_the_same(codec: WanCodec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = WanCodec.from_pretrained(tmp_path)
    assert loaded.config == codec.config
    assert torch.equal(loaded.encode(clip(5)), codec.encode(clip(5)))


def picture_clip(frames: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


@pytest.fixture
def in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan, "LARGEST_TILE", 40)


def test_encoding_in_tiles_is_equal(codec: WanCodec, in_tiles: None) -> None:
    frames = picture_clip(5, 48, 128)
    assert len(codec._tiles(frames.shape, encoder=True)) > 1
    mean, std = statistics()
    plain = (codec.network.encode(frames).latent_dist.mode() - mean) / std
    torch.testing.assert_close(codec.encode(frames), plain, rtol=0, atol=2e-5)


def test_decoding_in_tiles_is_equal(codec: WanCodec, in_tiles: None) -> None:
    latents = torch.randn(1, 16, 3, 2, 40, generator=torch.Generator().manual_seed(2))
    assert len(codec._tiles(latents.shape, encoder=False)) > 1
    whole, _ = codec.decode_stream(latents)
    torch.testing.assert_close(codec.decode(latents), whole, rtol=0, atol=2e-5)


def test_too_little_of_the_surroundings_would_be_seen(
    codec: WanCodec, in_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The halos are needed: with a smaller one the results differ."""
    frames = picture_clip(1, 48, 128)
    latents = torch.randn(1, 16, 1, 2, 40, generator=torch.Generator().manual_seed(2))
    encoded, decoded = codec.encode(frames), codec.decode(latents)
    monkeypatch.setattr(wan, "encoder_halo", lambda *sizes: 1)
    monkeypatch.setattr(wan, "decoder_halo", lambda *sizes: 3)
    assert (codec.encode(frames) - encoded).abs().max() > 1e-4
    assert (codec.decode(latents) - decoded).abs().max() > 1e-4


def test_a_small_state_is_as_good(codec: WanCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the history that is kept, so that its beginning is forgotten."""
    frames = picture_clip(61, 16, 16)
    whole = codec.encode(frames)
    monkeypatch.setattr(wan, "SMALL_STATE", 0)
    parts, state, start = [], None, 0
    for count in (1, 4, 40, 12, 4):
        latents, state = codec.encode_stream(frames[:, :, start : start + count], state)
        parts.append(latents)
        start += count
    assert state is not None
    assert state["frames"].shape[2] == encoder_history(TINY.temporal_downsample, 1)
    found = torch.cat(parts, dim=2)
    assert (found - whole).norm() < 2**-8 * whole.norm()
    assert not torch.equal(found, whole)


def test_the_history_is_long_enough_and_no_longer(codec: WanCodec) -> None:
    frames, encoder = picture_clip(81, 16, 16), codec.network.encoder
    whole = tiles(2, 2, 1, 100)
    last = [frames[:, :, -4:]]
    slots = 64

    def features(count: int) -> torch.Tensor:
        history = codec._history(frames[:, :, -4 - count : -4])
        return early_features(encoder, last, history, slots, whole)[0][0]

    expected, enough = features(77), encoder_history(TINY.temporal_downsample, 1)
    assert (features(enough) - expected).abs().max() < 1e-5
    assert (features(enough - 4) - expected).abs().max() > 1e-5


def test_a_state_at_the_published_size_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes, counted on a narrow codec at a small size, to which they are in proportion."""
    monkeypatch.setattr(wan, "SMALL_STATE", 0)
    codec = WanCodec(WanCodecConfig(base_dim=4)).eval().requires_grad_(False)
    _, state = codec.encode_stream(picture_clip(41, 16, 16))
    narrow = sum(tensor.nbytes for name, tensor in state.items() if name != "frames")
    width, size = WanCodecConfig().base_dim / 4, 448 * 896 / 16**2
    assert size * (width * narrow + state["frames"].nbytes) < 230e6
