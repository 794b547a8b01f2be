"""Walks that are generated together are those that each would be alone."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium", reason="needs the extra gym")

import gymnasium

from loci.errors import LociError
from loci.gym import VectorWalkEnv, WalkEnv
from loci.world.sampling import sample_walk_batch
from loci.world.world import World

from ..world.models import small_world
from .test_env import PICTURE

ACTIONS = np.array([[1, 0], [0, 3], [2, 4]])


def vector(**options: Any) -> VectorWalkEnv:
    return VectorWalkEnv(3, picture=PICTURE, model=small_world(), speed="exact", **options)


def test_it_is_made_by_name() -> None:
    made = gymnasium.make_vec(
        "loci.gym:loci/Walk-v0", 2, picture=PICTURE, model=small_world(), max_episode_steps=2
    )
    assert isinstance(made, VectorWalkEnv)
    observations, _ = made.reset(seed=1)
    assert made.observation_space.contains(observations)
    assert made.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    actions = made.action_space.sample()
    assert not made.step(actions)[3].any()
    assert made.step(actions)[3].all()


def test_each_walk_is_what_it_would_be_alone() -> None:
    together = vector()
    first, _ = together.reset(seed=4)
    alone = [WalkEnv(PICTURE, small_world(), "exact") for _ in range(3)]
    starts = [walk.reset(seed=4 + k)[0] for k, walk in enumerate(alone)]
    assert (first == np.stack(starts)).all()
    for round_ in range(12):
        actions = np.roll(ACTIONS, round_, axis=0)
        observations, _, _, _, infos = together.step(actions)
        for k, walk in enumerate(alone):
            observation, _, _, _, info = walk.step(actions[k])
            difference = observations[k].astype(int) - observation
            assert np.abs(difference).max() <= 1, "a rounding, at most"
            assert infos["pose"][k] == pytest.approx(info["pose"])
            assert infos["frame"][k] == info["frame"]
    for (state, _), walk in zip(together.clone_state(), alone, strict=True):
        torch.testing.assert_close(
            state.newest_latent, walk.clone_state()[0].newest_latent, atol=1e-5, rtol=0
        )
        spans = [s.memory.schedule.spans for s, _ in (together.clone_state()[0], (state, None))]
        assert len(spans[0]) == len(spans[1])


def test_memories_that_were_merged_differently_are_sampled_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Walks of other ways have other spans, but equally many once the budget is full."""
    world = small_world()
    states = [world.start(PICTURE, seed=k) for k in range(3)]
    for _ in range(26):
        keys = ("w*4", "j*4", "wl*4")
        states = [world.step(state, k)[1] for state, k in zip(states, keys, strict=True)]
    plans = {state.memory.schedule.spans for state in states}
    assert len(plans) > 1
    batches = []

    def counted(model: Any, noise: torch.Tensor, *rest: Any) -> torch.Tensor:
        batches.append(len(noise))
        return sample_walk_batch(model, noise, *rest)

    monkeypatch.setattr("loci.world.world.sample_walk_batch", counted)
    together = world.generate_chunks(states, ["w*4", "j*4", "d*2"])
    assert batches == [3]
    for chunk, state, keys in zip(together, states, ("w*4", "j*4", "d*2"), strict=True):
        frames, after = chunk.frames(), chunk.state_after()
        alone_frames, alone = world.step(state, keys)
        assert frames.shape == alone_frames.shape
        assert np.abs(frames.astype(int) - alone_frames).max() <= 1
        torch.testing.assert_close(after.newest_latent, alone.newest_latent, atol=1e-5, rtol=0)
        for name, tensor in alone.memory.tensors.items():
            torch.testing.assert_close(after.memory.tensors[name], tensor, atol=1e-5, rtol=0)


def test_walks_of_other_lengths_and_guided_ones_are_those_of_each() -> None:
    world = small_world()
    short = world.start(PICTURE, seed=1)
    long = world.step(world.step(short, "w*4")[1], "j*4")[1]
    for chunk, state in zip(
        world.generate_chunks([long, short], ["a*4", "a*4"]), (long, short), strict=True
    ):
        assert np.abs(chunk.frames().astype(int) - world.step(state, "a*4")[0]).max() <= 1
    with pytest.raises(LociError, match="expected 1 to 4"):
        world.generate_chunks([long, short], ["a*4", "a*5"])


def test_a_truncated_walk_begins_anew_while_others_go_on() -> None:
    made = vector(max_episode_steps=2)
    made.reset(seed=0)
    made.step(ACTIONS)
    assert made.step(ACTIONS)[3].all()
    observations, rewards, _, truncated, infos = made.step(ACTIONS)
    assert infos["frame"].tolist() == [0, 0, 0]
    assert not truncated.any()
    assert (rewards == 0).all()
    assert (observations == vector().reset(seed=9)[0]).all(), "the start picture"
    made._over[:] = [True, False, False]
    infos = made.step(ACTIONS)[4]
    assert infos["frame"].tolist() == [0, 4, 4]
    assert infos["frames"].shape == (3, 4, 32, 32, 3)


def test_states_are_cloned_and_restored() -> None:
    made = vector(reward=lambda frame, info: float(info["pose"][0]))
    made.reset(seed=0)
    kept = made.clone_state()
    first, rewards, *_ = made.step(ACTIONS)
    assert rewards[1] > 0 == rewards[0]
    made.restore_state(kept)
    assert (made.step(ACTIONS)[0] == first).all()


def test_no_walks_are_refused() -> None:
    world: World = small_world()
    with pytest.raises(LociError, match="num_envs 0, expected at least 1"):
        VectorWalkEnv(0, picture=PICTURE, model=world)
