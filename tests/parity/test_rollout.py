"""Picture to several chunks through the public `World`, against the published rollout."""

import numpy as np
import pytest
import torch

from loci.codecs.wan import WanCodec, WanCodecConfig
from loci.io.weights import load_strict
from loci.memory.hierarchical import MemoryConfig
from loci.memory.hpmc import WindowPlan
from loci.memory.schedule import MergeConfig
from loci.world.conditioning import Prompt
from loci.world.config import SamplingConfig, WorldConfig
from loci.world.published_files import renamed_codec
from loci.world.world import World
from tests.parity.conftest import Fixture, relative_error
from tests.parity.test_infinite_world import transformer


def rollout_world(fixture: Fixture) -> World:
    s = fixture.sidecar
    codec = WanCodec(
        WanCodecConfig(
            base_dim=s["vae_dim"], latents_mean=tuple(s["mean"]), latents_std=tuple(s["std"])
        )
    )
    prefix = "vae/"
    weights = {k[len(prefix) :]: v for k, v in fixture.weights.items() if k.startswith(prefix)}
    load_strict(codec.network, renamed_codec(weights), fixture.name)
    height, width = fixture.inputs["image"].shape[-2:]
    config = WorldConfig(
        size=(height, width),
        chunk=s["chunk_frames"] - 1,
        sampling=SamplingConfig(s["steps"], s["shift"], guidance_scale=s["guidance_scale"]),
        memory=MemoryConfig(MergeConfig(window=64), published_windows=WindowPlan()),
    )
    return World(config, transformer(fixture, "dit/"), codec.eval())


@pytest.mark.kind("rollout")
def test_rollout(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With streamed encoding, the memory compressed once and a context per chunk."""
    s, given, expected = fixture.sidecar, fixture.inputs, fixture.outputs
    world = rollout_world(fixture)
    noises = [given[f"noise_{k}"] for k in range(s["chunks"])]
    monkeypatch.setattr(
        "loci.world.latent_world.chunk_noise", lambda seed, k, shape, device: noises[k]
    )
    state = world.start_from_frame(
        given["image"], prompt=Prompt(given["text"][:, 0], given["text_mask"])
    )
    frames, size = [given["image"]], world.chunk_frames
    # The published loop pads a list that is too short with no-op.
    needed = size * s["chunks"] + 1
    actions = np.zeros((max(needed, len(given["move"])), 2), np.int64)
    actions[: len(given["move"])] = torch.stack([given["move"], given["view"]], dim=-1)
    for k in range(s["chunks"]):
        history = state.memory.tail
        assert history is not None
        assert relative_error(history, expected[f"history_{k}"]) < 2e-5
        start, end = size * k, size * (k + 1)
        chunk = world.generate_chunk(state, actions[start:end], actions[end])
        assert relative_error(chunk.latents, expected[f"latents_{k}"]) < 2e-5
        frames.append(chunk.video())
        state = chunk.state_after()
    assert relative_error(torch.cat(frames, dim=2), expected["video"]) < 1e-4
