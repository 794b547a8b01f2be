"""A world as a Gymnasium environment."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra gym")

import gymnasium
from gymnasium.utils.env_checker import check_env

from loci.errors import LociError
from loci.gym import FlatActions, WalkEnv

from ..world.models import small_world

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def env(**options: Any) -> WalkEnv:
    return WalkEnv(PICTURE, small_world(), "exact", **options)


def test_the_environment_passes_gymnasiums_own_check() -> None:
    check_env(env(render_mode="rgb_array"), skip_render_check=False)


def test_it_is_made_by_name() -> None:
    made = gymnasium.make(
        "loci.gym:loci/Walk-v0", picture=PICTURE, model=small_world(), max_episode_steps=2
    )
    made.reset(seed=1)
    action = np.array([1, 0])
    assert not made.step(action)[3]
    assert made.step(action)[3], "truncated by TimeLimit"


def test_a_step_holds_its_action_for_a_chunk() -> None:
    world = small_world()
    one = env()
    first, info = one.reset(seed=3)
    assert first.shape == (32, 32, 3)
    assert info["frame"] == 0
    seen, _, _, _, info = one.step(np.array([1, 0]))
    frames, state = world.step(world.start(PICTURE, seed=3), "w*4")
    assert (info["frames"] == frames).all()
    assert (seen == frames[-1]).all()
    assert info["pose"] == pytest.approx(state.pose[0].numpy())
    assert info["frame"] == 4


def test_the_seed_decides_and_unseeded_walks_differ() -> None:
    one = env()
    action = np.array([1, 1])
    runs = []
    for seed in (5, 5, 6):
        one.reset(seed=seed)
        runs.append(one.step(action)[0])
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()
    one.reset(seed=5)
    one.reset()
    assert (one.step(action)[0] != runs[0]).any()


def test_a_cloned_state_can_be_gone_back_to() -> None:
    one = env()
    one.reset(seed=0)
    kept = one.clone_state()
    first = one.step(np.array([1, 0]))[0]
    one.step(np.array([2, 0]))
    one.restore_state(kept)
    assert (one.step(np.array([1, 0]))[0] == first).all()
    again, _ = one.reset(seed=9, options={"state": kept})
    assert (again == kept[1]).all()
    assert (one.step(np.array([1, 0]))[0] == first).all()


def test_another_picture_by_options() -> None:
    one = env()
    before, _ = one.reset(seed=0)
    after, _ = one.reset(seed=0, options={"picture": 255 - PICTURE})
    assert (before != after).any()


def test_the_reward_is_the_users() -> None:
    goal = np.zeros((32, 32, 3), np.uint8)
    one = env(reward=lambda frame, info: -float(np.abs(frame.astype(float) - goal).mean()))
    one.reset(seed=0)
    frame, reward, terminated, truncated, _ = one.step(np.array([0, 0]))
    assert reward == pytest.approx(-frame.astype(float).mean())
    assert not terminated
    assert not truncated


def test_flat_actions_are_every_move_and_every_turn() -> None:
    flat = FlatActions(env())
    assert isinstance(flat.action_space, gymnasium.spaces.Discrete)
    assert flat.action_space.n == len(flat.pairs) == len(flat.names)
    assert len(set(flat.names)) == len(flat.names)
    flat.reset(seed=0)
    turned = flat.step(np.int64(flat.names.index("turn left")))[4]["pose"]
    assert turned[0] > 0
    assert turned[1] == pytest.approx(0)


def test_in_vector_environments() -> None:
    made = gymnasium.vector.SyncVectorEnv([env, env])
    observations, _ = made.reset(seed=[1, 2])
    assert observations.shape == (2, 32, 32, 3)
    alone = env()
    alone.reset(seed=2)
    action = np.array([1, 0])
    together = made.step(np.stack([action, action]))[0]
    assert (together[1] == alone.step(action)[0]).all()


def test_walks_of_one_vector_environment_may_end_at_different_times() -> None:
    def limited(steps: int) -> Any:
        return lambda: gymnasium.wrappers.TimeLimit(env(), steps)

    made = gymnasium.vector.SyncVectorEnv([limited(1), limited(3)])
    made.reset(seed=0)
    actions = np.array([[1, 0], [1, 0]])
    made.step(actions)
    infos = made.step(actions)[4]
    assert infos["frame"].tolist() == [0, 8], "the first begins anew while the second goes on"
    assert (infos["frames"][0] == infos["frames"][0, :1]).all()


@pytest.mark.parametrize("frames", [0, 1, 5])
def test_steps_of_one_frame_or_more_than_a_chunk_are_refused(frames: int) -> None:
    with pytest.raises(LociError, match=f"frames {frames}, expected 2 to 4 a step"):
        env(frames=frames)
