"""The video autoencoder against the published implementation."""

import pytest
import torch

from loci.codecs.wan import WanCodec, WanCodecConfig
from loci.io.weights import load_strict
from loci.world.published_files import renamed_codec
from tests.parity.conftest import Fixture, relative_error

LATENTS_LIMIT, DECODED_LIMIT = 5e-6, 2e-5


def codec_of(fixture: Fixture) -> WanCodec:
    sidecar = fixture.sidecar
    config = WanCodecConfig(
        base_dim=sidecar["dim"],
        latent_channels=sidecar["z_dim"],
        dim_mult=tuple(sidecar["dim_mult"]),
        blocks_per_level=sidecar["num_res_blocks"],
        temporal_downsample=tuple(sidecar["temporal_downsample"]),
        latents_mean=tuple(sidecar["mean"]),
        latents_std=tuple(sidecar["std"]),
    )
    codec = WanCodec(config)
    load_strict(codec.network, renamed_codec(fixture.weights), fixture.name)
    return codec.eval()


def whole_groups(codec: WanCodec, frames: torch.Tensor) -> torch.Tensor:
    """The frames that fill whole latents; the published encoder drops the rest without notice."""
    groups = (frames.shape[2] - 1) // codec.temporal_factor
    return frames[:, :, : 1 + groups * codec.temporal_factor]


@pytest.mark.kind("wan_vae")
def test_latents_and_frames(fixture: Fixture) -> None:
    codec = codec_of(fixture)
    for case in range(len(fixture.sidecar["cases"])):
        latents = codec.encode(whole_groups(codec, fixture.inputs[f"{case}/video"]))
        assert relative_error(latents, fixture.outputs[f"{case}/latents"]) < LATENTS_LIMIT
        frames = codec.decode(fixture.outputs[f"{case}/latents"])
        assert relative_error(frames, fixture.outputs[f"{case}/decoded"]) < DECODED_LIMIT


@pytest.mark.kind("wan_vae")
def test_pieces_give_the_same(fixture: Fixture) -> None:
    codec = codec_of(fixture)
    frames = whole_groups(codec, fixture.inputs["0/video"])
    cut = min(1 + codec.temporal_factor, frames.shape[2])
    latents, state = codec.encode_stream(frames[:, :, :cut])
    if cut < frames.shape[2]:
        rest, _ = codec.encode_stream(frames[:, :, cut:], state)
        latents = torch.cat([latents, rest], dim=2)
    assert torch.equal(latents, codec.encode(frames))
