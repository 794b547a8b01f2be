"""Held keys to frames: chunks replaced midway, taps honoured, nothing generated for nobody."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loci.app.play.player import MARGIN, MAX_REPLACED, MAX_STOPPED, TAP, Player, Shown, playable
from loci.world.world import World

from ...world.models import small_world
from .test_timeline import begun


def player(tmp_path: Path, world: World | None = None) -> Player:
    world = world or small_world()
    return Player(world, begun(tmp_path / "walk", world))


@pytest.fixture(autouse=True)
def _a_quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are there at once, however busy the machine is."""
    at_once = property(lambda self: 1e-9, lambda self, seconds: None)
    monkeypatch.setattr(Player, "first_seconds", at_once, raising=False)


def act(one: Player) -> Shown | None:
    """All that is due until the chunk under way is decoded, as one piece."""
    shown = one.act()
    if shown is None:
        return None
    parts = [shown]
    while one.due() == "decode":
        more = one.act()
        assert more is not None
        parts.append(more)
    frames = [part.frames for part in parts]
    return Shown(shown.first, np.concatenate(frames), shown.keys_id, shown.seconds)


def test_an_idle_walk_stands(tmp_path: Path) -> None:
    one = player(tmp_path)
    assert one.due() is None
    assert act(one) is None


def test_a_held_key_walks_chunk_after_chunk_as_frames_are_painted(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    shown = act(one)
    assert shown is not None
    assert (shown.first, len(shown.frames), shown.keys_id) == (1, 4, 1)
    assert act(one) is None, "nobody has painted a frame of it"
    one.paint(3)
    shown = act(one)
    assert shown is not None
    assert shown.first == 5
    assert one.timeline.length == 5, "the chunk before is committed"
    assert list(map(tuple, one.timeline.actions())) == [(1, 0)] * 4


def test_keys_that_change_midway_replace_what_is_not_shown(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    act(one)
    one.press("j", 2, 1)
    shown = act(one)
    assert shown is not None
    assert shown.first == 1 + 1 + MARGIN
    one.settle()
    assert list(map(tuple, one.timeline.actions())) == [(1, 0)] * (1 + MARGIN) + [(0, 3)] * (
        3 - MARGIN
    )
    assert (np.asarray(one.timeline.frame(shown.first)) == shown.frames[0]).all()


def test_frames_are_shown_while_later_ones_are_decoded(tmp_path: Path) -> None:
    world = small_world()
    one = player(tmp_path, world)
    one.press("w", 1, 0)
    pieces = []
    while not pieces or one.due() == "decode":
        shown = one.act()
        assert shown is not None
        pieces.append(shown)
    assert [(piece.first, len(piece.frames)) for piece in pieces] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (5, 0),
    ]
    whole, _ = world.step(one.timeline.state, "w*4")
    assert (np.concatenate([piece.frames for piece in pieces]) == whole).all()


def test_a_replaced_chunk_is_decoded_no_further(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    assert one.act() is not None
    given_up = one.pending
    assert given_up is not None
    one.press("j", 2, 0)
    shown = act(one)
    assert shown is not None
    assert (shown.first, len(shown.frames)) == (1 + MARGIN, 4 - MARGIN)
    assert not given_up.decoded
    one.settle()
    assert one.timeline.length == 5, "the frame that was not exchanged is committed too"


def test_a_chunk_is_replaced_only_so_often(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    act(one)
    for number in range(MAX_REPLACED):
        one.press("jl"[number % 2], 2 + number, 0)
        assert act(one) is not None
    one.press("d", 9, 0)
    assert one.due() is None


def press_while_sampling(
    one: Player, monkeypatch: pytest.MonkeyPatch, keys: list[str]
) -> list[str]:
    """Presses the next of `keys` before every step that is sampled. The list returned grows by
    every stage that is reported."""
    stages: list[str] = []
    report = one.world.report

    def report_and_press(stage: str, step: int, steps: int) -> None:
        stages.append(stage)
        if stage == "sampling" and keys:
            one.press(keys.pop(0), one.keys_id + 1, one.painted)
        report(stage, step, steps)

    monkeypatch.setattr(one.world, "report", report_and_press)
    return stages


def test_keys_that_change_while_a_chunk_is_sampled_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = player(tmp_path)
    press_while_sampling(one, monkeypatch, ["j"])
    one.press("w", 1, 0)
    shown = act(one)
    assert shown is not None
    assert (shown.first, len(shown.frames), shown.keys_id) == (1, 4, 2)
    one.settle()
    assert list(map(tuple, one.timeline.actions())) == [(0, 3)] * 4, "no frame went forward"


def test_letting_go_while_a_chunk_is_sampled_still_walks_the_tap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = player(tmp_path)
    press_while_sampling(one, monkeypatch, [""])
    one.press("w", 1, 0)
    assert act(one) is not None
    one.settle()
    assert tuple(one.timeline.actions()[0]) == (1, 0)


def test_keys_that_change_all_the_time_do_not_stop_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = player(tmp_path)
    stages = press_while_sampling(one, monkeypatch, ["w", "j"] * 100)
    one.press("d", 1, 0)
    assert one.act() is not None
    assert stages.count("context") == MAX_STOPPED + 1, "chunks that were begun"


def test_a_slow_world_exchanges_no_frame_that_will_have_been_painted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    act(one)
    monkeypatch.setattr(Player, "first_seconds", 2.5 / one.world.fps)
    one.press("j", 2, 0)
    assert one.due() == "replace"
    one.press("j", 2, 2)
    assert one.due() == "go on", "its last frames would come too late"


def test_a_slow_world_leaves_no_frame_out_when_it_exchanges_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page waits for every frame: those that were not sent yet come with the new ones."""
    one = player(tmp_path)
    monkeypatch.setattr(Player, "first_seconds", 2.5 / one.world.fps)
    one.press("w", 1, 0)
    first = one.act()
    assert first is not None
    one.press("j", 2, 0)
    rest = act(one)
    assert rest is not None
    assert (first.first, len(first.frames)) == (1, 1)
    assert (rest.first, len(rest.frames)) == (2, 3)
    one.settle()
    assert list(map(tuple, one.timeline.actions())) == [(1, 0)] + [(0, 3)] * 3


def test_letting_go_stands_still_for_the_rest_of_the_chunk(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    act(one)
    one.press("", 2, 1)
    act(one)
    one.paint(4)
    assert act(one) is None
    one.settle()
    assert tuple(one.timeline.actions()[-1]) == (0, 0)
    assert one.timeline.length == 5


def test_a_tap_shorter_than_a_frame_is_walked(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    one.press("", 2, 0)
    assert act(one) is not None
    one.settle()
    assert list(map(tuple, one.timeline.actions())) == [(1, 0)] * TAP + [(0, 0)] * (4 - TAP)


def test_the_committed_actions_give_the_same_walk(tmp_path: Path) -> None:
    world = small_world()
    one = player(tmp_path, world)
    for step, keys in enumerate(("w", "wj", "", "l")):
        one.press(keys, step, one.last - 2)
        act(one)
        one.paint(one.last)
        act(one)
    one.settle()
    state = world.start(np.asarray(begun(tmp_path / "x", world).frame(0)))
    state = one.timeline.states[0]
    actions = one.timeline.actions()
    for first in range(0, len(actions), world.chunk_frames):
        frames, state = world.step(state, actions[first : first + world.chunk_frames])
        for k, frame in enumerate(frames):
            assert (np.asarray(one.timeline.frame(1 + first + k)) == frame).all()


def test_undo_shows_the_frame_there_and_forgets_the_keys(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    first = act(one)
    assert first is not None
    one.paint(4)
    act(one)
    shown = one.go_to(1)
    assert shown.first == 4
    assert (shown.frames[0] == first.frames[-1]).all()
    assert one.due() is None
    one.press("w", 2, 4)
    again = act(one)
    assert again is not None
    assert again.first == 5


def test_a_peek_changes_nothing(tmp_path: Path) -> None:
    one = player(tmp_path)
    one.press("w", 1, 0)
    act(one)
    before = one.timeline.length, one.last
    frames = one.peek(6)
    assert frames.shape == (6, 32, 32, 3)
    assert (one.timeline.length, one.last) == before
    assert (one.peek(6) == frames).all()
    assert (one.peek(-6) != frames).any()


@pytest.mark.parametrize(
    ("held", "expected"),
    [("w", "w"), ("ws", ""), ("wsj", "j"), ("jl", ""), ("dwl", "wdl"), ("wx7", "w"), ("W", "w")],
)
def test_held_keys_are_what_the_world_can_do(held: str, expected: str) -> None:
    assert playable(held, small_world()) == expected


def test_a_walk_is_not_settled_while_a_chunk_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server stops: the thread that generates goes on when its task is cancelled."""
    one = player(tmp_path)
    begins, free, generate = threading.Event(), threading.Event(), one.world.generate_chunk

    def slow(*given: Any) -> Any:
        begins.set()
        free.wait(10)
        return generate(*given)

    monkeypatch.setattr(one.world, "generate_chunk", slow)
    one.press("w", 1, 0)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(one.act)
        assert begins.wait(10)
        settling = pool.submit(one.settle)
        wait([settling], timeout=0.1)
        free.set()
        settling.result(10)
    assert one.pending is None
    assert one.timeline.length == 1 + one.world.chunk_frames
