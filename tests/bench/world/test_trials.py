"""Held-out trials: the engine's way back repeats the way out, and histories are encoded right."""

import numpy as np
import pytest
import torch

from loci.bench.world.trials import encode_history, held_out_maps, make_trial, rollout
from tests.world.models import small_world

SIZE = (32, 32)


def needs_the_engine() -> None:
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed (the extra `doom`)")


def test_held_out_maps_are_odd_and_follow_the_seed() -> None:
    assert all(m % 2 for m in held_out_maps(5, 3))
    assert not set(held_out_maps(20, 0)) & set(held_out_maps(20, 1))


@pytest.mark.parametrize(("kind", "split"), [("spin", 48), ("walk", 32)])
def test_the_way_back_shows_the_views_of_the_way_out(kind: str, split: int) -> None:
    needs_the_engine()
    trial = make_trial(kind, 64, *held_out_maps(2, 0), small_world())  # pyright: ignore
    assert trial.split == split
    assert trial.frames.shape == trial.other_map.shape == (65, *SIZE, 3)
    frames, actions = trial.given
    assert len(frames) == len(actions) + 1 == split + 1
    before = trial.frames[trial.earlier_match].astype(int)
    assert len(trial.way_back) == len(trial.truth) == len(before) == 64 - split
    assert np.abs(before - trial.truth).mean() < 1
    assert np.abs(before - trial.other_map[split + 1 :]).mean() > 10
    if kind == "spin":
        # 40 degrees are five turns of 7.5 and a part of one.
        assert trial.hidden.tolist() == [False] * 5 + [True] * 11


def test_an_encoded_history_is_that_of_the_walk_that_made_it() -> None:
    world = small_world(reencode=True)
    rng = np.random.default_rng(0)
    actions = np.array([(1, 0), (0, 3), (2, 4), (0, 0)] * 5)
    start = world.start(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), seed=3)
    generated, walked = rollout(world, start, actions)
    first = ((world.codec.decode(start.newest_latent)[0, :, 0] + 1) * 127.5).round().byte()
    frames = np.concatenate([first.permute(1, 2, 0).numpy()[None], generated])
    state = encode_history(world, frames, actions, seed=3)
    assert (state.seed, state.frame_count) == (walked.seed, walked.frame_count)
    assert state.memory.schedule == walked.memory.schedule
    assert torch.equal(state.pose, walked.pose)
    assert state.memory.tail_poses is not None
    assert walked.memory.tail_poses is not None
    assert torch.equal(state.memory.tail_poses, walked.memory.tail_poses)
    assert (state.newest_latent - walked.newest_latent).abs().max() < 0.2
