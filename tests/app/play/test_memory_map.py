"""The map's tokens: what a chunk could attend to, keyframes among them."""

from pathlib import Path

import numpy as np
import pytest

from loci.app.play.memory_map import memory_map
from tests.app.play.test_player import player
from tests.world.models import small_world, with_keyframes


def test_keyframes_are_on_the_map(tmp_path: Path) -> None:
    world = with_keyframes(small_world(), keyframes=12, attended=2)
    one = player(tmp_path, world)
    state, actions = one.timeline.state, np.array([(1, 3)] * 4)
    for _ in range(60):
        frames, state = world.step(state, actions)
        one.timeline.commit(state, actions, frames)
    shown = memory_map(one)["tokens"]
    spans = {(token["level"], token["start"], token["end"]) for token in shown}
    assert len(spans) == len(shown), "each once"
    assert {tuple(span) for span in state.memory.keyframe_spans} <= spans
    assert any(level > 1 for level, _, _ in spans)
    assert all(len(token["pose"]) == 4 for token in shown)
    starts = [token["start"] for token in shown]
    assert starts == sorted(starts), "oldest first"


def test_the_path_has_no_gaps_where_states_were_thinned_out(tmp_path: Path) -> None:
    world = small_world()
    one = player(tmp_path, world)
    state, poses = one.timeline.state, []
    for step in range(12):
        actions = np.array([(1, 3 if step % 3 else 0)] * 4)
        frames, state = world.step(state, actions)
        one.timeline.commit(state, actions, frames)
        poses.append([round(float(v), 3) for v in state.pose[0]])
    for k in range(1, 8):
        del one.timeline.states[k]
    path = memory_map(one)["path"]
    assert path == [[0.0, 0.0, 0.0], *poses]


def test_the_path_of_a_long_walk_is_that_of_its_last_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = small_world()
    one = player(tmp_path, world)
    state = one.timeline.state
    for _ in range(10):
        frames, state = world.step(state, "w*4")
        one.timeline.commit(state, np.array([(1, 0)] * 4), frames)
    monkeypatch.setattr("loci.app.play.memory_map.MAX_PATH_FRAMES", 16)
    monkeypatch.setattr("loci.app.play.memory_map.MAX_PATH_POINTS", 2)
    path = memory_map(one)["path"]
    assert path[0] == [round(float(v), 3) for v in one.timeline.states[6].pose[0]]
    assert path[-1] == [round(float(v), 3) for v in state.pose[0]]
    assert len(path) <= 4
