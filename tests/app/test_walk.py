import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from loci.actions.vocabulary import describe, parse_keys
from loci.app.walk import SCRIPT, Walk, choose_actions, generate
from loci.errors import LociError


@dataclass
class Counting:
    """A world whose frames show their own number; Ctrl-C is pressed in the step from `pressed`."""

    pressed: int | None = None
    chunk: int = 8
    asked: list[int] = field(default_factory=list)

    def step(self, state: int, actions: np.ndarray) -> tuple[np.ndarray, int]:
        assert 1 <= len(actions) <= self.chunk
        if state == self.pressed:
            os.kill(os.getpid(), signal.SIGINT)
        self.asked.append(len(actions))
        numbers = np.arange(state + 1, state + 1 + len(actions), dtype=np.uint8)
        return numbers[:, None, None, None] + np.zeros((1, 2, 2, 3), np.uint8), state + len(actions)


@dataclass
class Film:
    """Keeps what a video writer would write."""

    frames: list[int] = field(default_factory=list)
    pressed: int | None = None

    def write(self, frames: np.ndarray) -> None:
        self.frames += frames[:, 0, 0, 0].tolist()
        if self.pressed in self.frames:
            os.kill(os.getpid(), signal.SIGINT)


def run(count: int, world: Counting, film: Film) -> tuple[int, dict[int, np.ndarray], int]:
    return generate(world, 0, parse_keys(f"w*{count}"), film)  # type: ignore[arg-type]


def test_every_action_becomes_a_frame_in_order() -> None:
    world, film = Counting(), Film()
    state, tiles, done = run(21, world, film)
    assert world.asked == [8, 8, 5]
    assert film.frames == list(range(1, 22))
    assert state == done == 21
    assert list(tiles) == list(range(1, 22))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_the_sheet_shows_numbered_frames_and_stays_small(count: int) -> None:
    _, tiles, _ = run(count, Counting(), Film())
    assert 1 <= len(tiles) <= 65
    assert all(frame[0, 0, 0] == number for number, frame in tiles.items())


@pytest.mark.parametrize("pressed", [0, 8, 16])
def test_ctrl_c_in_a_step_keeps_the_steps_before(pressed: int) -> None:
    film = Film()
    state, tiles, done = run(40, Counting(pressed=pressed), film)
    assert state == done == len(film.frames) == pressed
    assert bool(tiles) == (pressed > 0)


def test_ctrl_c_while_writing_keeps_what_is_written() -> None:
    film = Film(pressed=11)
    state, _, done = run(40, Counting(), film)
    assert state == done == len(film.frames) == 16


def test_a_short_walk_still_has_a_sheet() -> None:
    _, tiles, done = run(200, Counting(pressed=8, chunk=2), Film())
    assert done == 8
    assert tiles


def test_the_script_comes_back_and_repeats() -> None:
    script = choose_actions(Walk())
    assert len(script) == 512
    assert describe(script) == SCRIPT
    longer = choose_actions(Walk(frames=700))
    assert np.array_equal(longer[:512], script)
    assert np.array_equal(longer[512:], script[:188])
    assert np.array_equal(choose_actions(Walk(frames=3)), script[:3])


@pytest.mark.parametrize("frames", [None, 1, 4])
def test_frames_cut_the_list(tmp_path: Path, frames: int | None) -> None:
    path = tmp_path / "actions.json"
    path.write_text(json.dumps([{"move": "go left", "view": "turn up"}] * 4))
    for walk in (Walk(frames=frames, actions=path), Walk(frames=frames, keys="ai*4")):
        assert choose_actions(walk).tolist() == [[3, 1]] * (frames or 4)


def test_a_short_list_is_not_padded(tmp_path: Path) -> None:
    path = tmp_path / "actions.json"
    path.write_text(json.dumps([{"move": "no-op", "view": "no-op"}] * 4))
    for walk in (Walk(frames=5, actions=path), Walk(frames=5, keys=".*4")):
        with pytest.raises(LociError, match="4 actions, expected one for each of 5 frames"):
            choose_actions(walk)
