"""Recorded walks as latents: which action leads where, and what the cache is found by."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.data import latents
from loci.data.latents import join_walks, latent_walks
from loci.data.mapped import MappedArray
from loci.data.recordings import Recordings
from loci.envs.base import EnvironmentInfo
from loci.errors import LociError
from loci.memory.poses import ActionScale

LEFT, FORWARD = (0, 3), (1, 0)
INFO = EnvironmentInfo("test", (8, 8), move_units=12, turn_degrees=7.5, cell_units=128)


def recordings(digest: str = "one") -> Recordings:
    """Two walks that turn left, go forward, and end with an action that leads nowhere."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    turn, step = 7.5, 12.0
    place = [step * math.cos(math.radians(turn)), step * math.sin(math.radians(turn))]
    poses = np.array([[0, 0, 0], [0, 0, turn], [*place, turn]], np.float32)
    actions = np.array([LEFT, FORWARD, LEFT], np.uint8)
    both = np.stack([actions] * 2), np.stack([poses] * 2)
    return Recordings(MappedArray([frames[:1], frames[1:]]), *both, INFO, digest=digest)


def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(FrameCodecConfig(widths=(8,), norm_groups=4)).eval().requires_grad_(False)


def test_dead_reckoning_agrees_with_the_environment(tmp_path: Path) -> None:
    """The action of frame t leads to frame t + 1, in radians and cells."""
    walks = latent_walks(recordings(), codec(), tmp_path, 2)
    assert walks.latents.shape == (2, 3, 16, 1, 1)
    assert torch.allclose(walks.poses, walks.true_poses, atol=1e-6)
    assert walks.true_poses[0, 2].tolist() == pytest.approx(
        [math.radians(7.5), 12 / 128 * math.cos(math.radians(7.5)), 0.01224], abs=1e-5
    )


def test_walks_of_other_units_or_without_poses(tmp_path: Path) -> None:
    other = replace(recordings(), info=EnvironmentInfo("a video", (8, 8)), poses=None)
    with pytest.raises(LociError, match="units of their actions"):
        latent_walks(other, codec(), tmp_path, 2)
    walks = latent_walks(other, codec(), tmp_path, 2, ActionScale(0.5, 2.0))
    assert walks.poses[0, 2].tolist() == pytest.approx([0.5, 2 * math.cos(0.5), 2 * math.sin(0.5)])
    assert torch.equal(walks.true_poses, walks.poses)


def test_sets_are_joined_in_order(tmp_path: Path) -> None:
    walks = latent_walks(recordings(), codec(), tmp_path, 2)
    other = replace(walks, latents=walks.latents + 1, actions=walks.actions + 1)
    joined = join_walks([walks, other])
    assert (joined.count, joined.length) == (4, 3)
    assert torch.equal(joined.latents, torch.cat([walks.latents, walks.latents + 1]))
    assert torch.equal(joined.actions[2:], walks.actions + 1)
    assert torch.equal(joined.poses[2:], walks.poses)
    assert join_walks([walks]) is walks


def test_a_film_is_addressed_by_its_poses(tmp_path: Path) -> None:
    """An uncertain action would be reckoned as standing still."""
    film = recordings()
    film.actions[:] = 9
    walks = latent_walks(replace(film, meta={"addressed_by": "poses"}), codec(), tmp_path, 2)
    assert walks.poses[0, 2, 0].item() == pytest.approx(math.radians(7.5))
    assert torch.equal(walks.poses, walks.true_poses)
    assert not latent_walks(film, codec(), tmp_path, 2).poses.any()


def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls, encode = [], latents._encode

    def counted(*given):
        calls.append(1)
        return encode(*given)

    monkeypatch.setattr(latents, "_encode", counted)
    return calls


def test_what_is_encoded_once_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = encodings(monkeypatch)
    first = latent_walks(recordings(), codec(), tmp_path, 1)
    both = latent_walks(recordings(), codec(), tmp_path, 2)
    assert len(calls) == 2
    assert torch.equal(both.latents[:1], first.latents)
    video = torch.from_numpy(recordings().frames[1]).permute(3, 0, 1, 2)[None] / 127.5 - 1
    expected = codec().encode(video)[0].transpose(0, 1)
    torch.testing.assert_close(both.latents[1].float(), expected, atol=2e-3, rtol=2e-3)
    with pytest.raises(LociError, match="3 walks asked for, but the shards hold 2"):
        latent_walks(recordings(), codec(), tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_not_finished_is_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent_walks(recordings(), codec(), tmp_path, 2)
    (folder,) = tmp_path.iterdir()
    np.save(folder / "encoded.npy", np.array([1, 0], np.uint8))
    calls = encodings(monkeypatch)
    latent_walks(recordings(), codec(), tmp_path, 2)
    assert len(calls) == 1


def test_other_recordings_and_other_codecs_have_caches_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = latent_walks(recordings(), codec(), tmp_path, 2)
    calls, other = encodings(monkeypatch), codec()
    torch.nn.init.normal_(other.analysis.weight)
    found = latent_walks(recordings(), other, tmp_path, 2)
    assert len(calls) == 2
    assert not torch.allclose(found.latents, before.latents)
    latent_walks(recordings("two"), codec(), tmp_path, 2)
    assert len(calls) == 4
    assert len(list(tmp_path.iterdir())) == 3


def test_latents_are_mapped_and_never_written_through(tmp_path: Path) -> None:
    walks = latent_walks(recordings(), codec(), tmp_path, 2)
    before = walks.latents.clone()
    walks.latents.zero_()
    assert torch.equal(latent_walks(recordings(), codec(), tmp_path, 2).latents, before)
