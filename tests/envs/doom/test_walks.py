import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loci.envs.doom.engine import (
    BEARING,
    FORWARD,
    LEFT,
    OPPOSITE,
    RIGHT,
    MapPose,
    stepped,
    turn_between,
)
from loci.envs.doom.maps import make_map
from loci.envs.doom.walks import KINDS, Kind, Wanderer, spin, there_and_back

seeds = st.integers(0, 2**40)
BODY = 16  # half the width of a walker, in map units


def walked(seed: int, kind: Kind, frames: int) -> tuple[np.ndarray, list[MapPose]]:
    """Actions and poses of a walk whose every step succeeds."""
    world = make_map(seed)
    wanderer = Wanderer(world, kind, seed)
    actions = []
    poses: list[MapPose] = [world.start]
    for _ in range(frames):
        actions.append(wanderer.action())
        poses.append(stepped(poses[-1], *actions[-1]))
        wanderer.pose = poses[-1]
    return np.array(actions), poses


@given(seeds, st.sampled_from(KINDS))
def test_walks_keep_clear_of_walls(seed: int, kind: Kind) -> None:
    world = make_map(seed)
    _, poses = walked(seed, kind, 300)
    hits = sum(not world.is_clear(x, y, BODY) for x, y, _ in poses)
    assert hits <= 3


@given(seeds, st.sampled_from(KINDS))
def test_the_same_seed_gives_the_same_walk(seed: int, kind: Kind) -> None:
    first, again = walked(seed, kind, 100), walked(seed, kind, 100)
    assert (first[0] == again[0]).all()


def test_a_walk_can_begin_with_a_full_turn() -> None:
    wanderer = Wanderer(make_map(1), "revisit", 1, spin_first=True)
    actions = np.array([wanderer.action() for _ in range(48)])
    assert (actions[:, 0] == 0).all()
    assert set(actions[:, 1]) in ({LEFT}, {RIGHT})


def test_revisits_revisit_more() -> None:
    def share_seen_before(kind: Kind) -> float:
        shares = []
        for seed in range(6):
            poses = np.array(walked(seed, kind, 600)[1])
            views = [
                tuple(np.round([x / 64, y / 64, h % 360 / 30]).astype(int)) for x, y, h in poses
            ]
            changes = [b for a, b in pairwise(views) if a != b]
            shares.append(1 - len(set(changes)) / len(changes))
        return float(np.mean(shares))

    assert share_seen_before("revisit") > share_seen_before("wander") + 0.1


def test_all_moves_and_both_turns_occur() -> None:
    actions = np.concatenate([walked(s, kind, 800)[0] for s in range(8) for kind in KINDS])
    assert set(actions[:, 0]) == set(range(9))
    assert set(actions[:, 1]) == {0, LEFT, RIGHT}


def test_something_in_the_way_makes_the_walker_choose_anew() -> None:
    world = make_map(3)
    wanderer = Wanderer(world, "wander", 3)
    wanderer.blocked()
    x, y, _ = world.start
    room = world.rooms[world.room_at(x, y) or 0]
    for _ in range(80):
        wanderer.pose = stepped(wanderer.pose, *wanderer.action())
        if math.dist(wanderer.pose[:2], room.middle) < 64:
            return
    pytest.fail("expected the walker to go to the middle of the room")


def test_a_step_turns_first() -> None:
    assert stepped((0, 0, 0), FORWARD, 0) == (12, 0, 0)
    assert stepped((0, 0, 82.5), FORWARD, LEFT) == pytest.approx((0, 12, 90))
    assert stepped((0, 0, 0), 3, 0) == pytest.approx((0, 12, 0))
    for move, other in OPPOSITE.items():
        if move:
            assert abs(turn_between(BEARING[move], BEARING[other])) == 180


def test_scripts_have_the_length_asked_for() -> None:
    assert spin(50).tolist() == [[0, LEFT]] * 50
    for frames in (0, 1, 64, 65):
        assert there_and_back(1, frames).shape == (frames, 2)


@given(seeds, st.integers(1, 150))
def test_there_and_back_comes_back_the_same_way(seed: int, half: int) -> None:
    poses: list[MapPose] = [make_map(seed).start]
    for move, view in there_and_back(seed, 2 * half).tolist():
        poses.append(stepped(poses[-1], move, view))
    assert np.allclose(poses, poses[::-1])
