"""Recorded walks as a model sees them: which action leads where, and what the cache keeps."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from loci.data.latent_walks import latent_walks
from loci.data.shards import DoomShards
from loci.errors import LociError
from loci.world.frame_codec import FrameCodec, FrameCodecConfig

LEFT, FORWARD = (0, 3), (1, 0)


def shards() -> DoomShards:
    """Two walks that turn left, go forward, and end with an action that leads nowhere."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    turn, step = 7.5, 12.0
    place = [step * math.cos(math.radians(turn)), step * math.sin(math.radians(turn))]
    poses = np.array([[0, 0, 0], [0, 0, turn], [*place, turn]], np.float32)
    actions = np.array([LEFT, FORWARD, LEFT], np.uint8)
    none = np.zeros(2, np.uint8)
    return DoomShards(
        frames, np.stack([poses] * 2), np.stack([actions] * 2), none, none.astype(np.int64), {}
    )


def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(FrameCodecConfig(widths=(8,), norm_groups=4)).eval().requires_grad_(False)


def test_reckoning_agrees_with_the_engine(tmp_path: Path) -> None:
    """The action of frame t leads to frame t + 1, in radians and cells."""
    walks = latent_walks(shards(), codec(), tmp_path, 2)
    assert walks.latents.shape == (2, 3, 16, 1, 1)
    assert torch.allclose(walks.reckoned, walks.true, atol=1e-6)
    assert walks.true[0, 2].tolist() == pytest.approx(
        [math.radians(7.5), 12 / 128 * math.cos(math.radians(7.5)), 0.01224], abs=1e-5
    )


def test_what_is_encoded_once_is_kept(tmp_path: Path) -> None:
    first = latent_walks(shards(), codec(), tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"00000.npy", "owner.json"}
    both = latent_walks(shards(), codec(), tmp_path, 2)
    assert torch.equal(both.latents[:1], first.latents)
    with pytest.raises(LociError, match="3 walks asked for, but the shards hold 2"):
        latent_walks(shards(), codec(), tmp_path, 3)


def test_a_cache_of_another_codec_is_refused(tmp_path: Path) -> None:
    latent_walks(shards(), codec(), tmp_path, 1)
    other = codec()
    torch.nn.init.normal_(other.analysis.weight)
    with pytest.raises(LociError, match="latents of another codec"):
        latent_walks(shards(), other, tmp_path, 1)
