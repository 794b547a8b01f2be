"""The map's tokens: what a chunk could attend to, keyframes among them."""

from pathlib import Path

import numpy as np

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
