import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from loci.data.record_doom import map_seed, record_walks
from loci.data.recordings import load_recordings
from loci.envs.doom.engine import (
    FOV,
    LEFT,
    RIGHT,
    TURN,
    UNSET_FOV,
    DoomWalker,
    RenderSettings,
    film,
    stepped,
    turn_between,
)
from loci.envs.doom.maps import DoomMap, Room, make_map
from loci.envs.doom.walks import runs, spin, there_and_back
from loci.errors import LociError

pytest.importorskip("vizdoom", reason="ViZDoom is not installed (the extra `doom`)")

EVERY_ACTION = [(move, view) for move in range(9) for view in (0, LEFT, RIGHT)]


def hall() -> DoomMap:
    """One wide room without landmarks, seen from its middle."""
    room = Room(0, 0, 20, 20)
    cells = dict.fromkeys(room.cells, 0)
    return DoomMap(0, [room], owner=cells, start=(*room.middle, 30))


def test_every_step_is_exact() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(EVERY_ACTION * 6).tolist()
    with DoomWalker([hall()]) as walker:
        walker.enter(0)
        reckoned = walker.pose()
        assert reckoned == pytest.approx((1280, 1280, 30), abs=1e-3)
        for move, view in order:
            before = walker.pose()
            walker.step(move, view)
            here, expected = walker.pose(), stepped(before, move, view)
            reckoned = stepped(reckoned, move, view)
            assert here[:2] == pytest.approx(expected[:2], abs=0.012)
            # The engine's angles are multiples of 1/182 degree, and never more than that away.
            assert abs(turn_between(here[2], reckoned[2])) < 0.006
    assert here[:2] == pytest.approx(reckoned[:2], abs=0.5)


def test_there_is_no_inertia() -> None:
    with DoomWalker([hall()]) as walker:
        walker.enter(0)
        walker.step(1, 0)
        still = walker.pose()
        for _ in range(3):
            walker.step(0, 0)
            assert walker.pose() == still


def test_the_same_place_looks_the_same() -> None:
    actions = there_and_back(11, 60)
    frames, poses = film(11, actions)
    assert frames.shape == (61, 128, 128, 3)
    assert frames.dtype == np.uint8
    assert poses.shape == (61, 3)
    assert np.abs(poses - poses[::-1])[:, :2].max() < 0.05
    assert np.abs(frames.astype(int) - frames[::-1]).mean() < 0.5
    again, _ = film(11, actions)
    assert (again == frames).all()


def test_a_full_turn_sees_the_whole_room_and_ends_where_it_began() -> None:
    frames, _ = film(12, spin(96))
    assert (frames[:48] == frames[48:96]).mean() > 0.999
    apart = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames[:49])]
    assert min(apart) > 0.1
    assert frames.mean() > 60, "too dark to learn from"


def test_a_walk_can_start_anywhere_in_the_open() -> None:
    x, y = make_map(13).start[:2]
    start = (x + 16, y - 8, 77.4)
    _, poses = film(13, runs([(0, LEFT, 1)]), start)
    assert poses[0] == pytest.approx((x + 16, y - 8, 77), abs=0.01)
    assert poses[1, 2] == pytest.approx(84.5, abs=0.01)
    with pytest.raises(LociError, match="no room to stand"):
        film(13, spin(1), (1e6, 0, 0))


def test_unknown_actions_are_refused() -> None:
    with DoomWalker([hall()]) as walker:
        walker.enter(0)
        for move, view in ((9, 0), (0, 1), (0, 9), (-1, 0)):
            with pytest.raises(LociError, match="cannot do"):
                walker.step(move, view)


def warping_error(frames: np.ndarray, fov: float) -> float:
    """How far frames are from the frames before them, turned to the left by warping.

    A column at some viewing angle shows what was `TURN` degrees further left a frame ago. Only rows
    near the horizon are compared, where turning does not move anything up or down.
    """
    size = frames.shape[1]
    gray = frames.mean(-1)[:, size // 2 - size // 16 : size // 2 + size // 16]
    middle, focal = (size - 1) / 2, size / 2 / math.tan(math.radians(fov / 2))
    angles = np.arctan((np.arange(size) - middle) / focal)
    source = focal * np.tan(angles - math.radians(TURN)) + middle
    inside = (source >= 0) & (source <= size - 1)
    errors = []
    for before, after in pairwise(gray):
        warped = np.array([np.interp(source[inside], np.arange(size), row) for row in before])
        errors.append(((warped - after[:, inside]) ** 2).mean())
    return float(np.mean(errors))


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("fov", [FOV, UNSET_FOV], ids=["88.7", "73.7"])
def test_a_frame_spans_the_field_of_view_that_is_stated(size: int, fov: float) -> None:
    rendering = RenderSettings(size, fov)
    frames, _ = film(3, spin(48), rendering=rendering)
    assert frames.shape[1:] == (size, size, 3)
    assert rendering.info.fov_degrees == pytest.approx(fov, abs=0.01)
    tried = fov + np.arange(-18, 19, 3)
    best = min(tried, key=lambda assumed: warping_error(frames, assumed))
    assert best == pytest.approx(fov, abs=3.1)


def test_frames_of_other_sizes_and_fields_of_view_are_refused() -> None:
    with pytest.raises(LociError, match="96 pixels"):
        RenderSettings(96)
    with pytest.raises(LociError, match="120 degrees"):
        RenderSettings(fov=120)


def test_walls_stop_the_walker() -> None:
    world = hall()
    with DoomWalker([replace(world, start=(40.0, 1280.0, 180))]) as walker:
        walker.enter(0)
        for _ in range(6):
            walker.step(1, 0)
        assert 15 < walker.pose()[0] < 30


def test_a_walker_takes_1_to_99_maps() -> None:
    for maps in ([], [hall()] * 100):
        with pytest.raises(LociError, match="expected 1 to 99"):
            DoomWalker(maps)


def test_recording(tmp_path: Path) -> None:
    done = record_walks(tmp_path / "a", episodes=3, frames=50, seed=5, split="test")
    assert done.frames == 150
    shards = load_recordings(tmp_path / "a")
    assert shards.frames.shape == (3, 50, 128, 128, 3)
    assert shards.walk_attributes["map_seeds"].tolist() == [10_000_001, 10_000_003, 10_000_005]
    assert [shards.meta["kinds"][kind] for kind in shards.walk_attributes["kinds"]] == [
        "wander",
        "wander",
        "revisit",
    ]
    assert (shards.actions[1, :48, 1] > 0).all(), "every other walk begins with a full turn"
    assert shards.poses is not None
    for poses, actions in zip(shards.poses.tolist(), shards.actions.tolist(), strict=True):
        for here, there, action in zip(poses, poses[1:], actions, strict=False):
            expected = stepped(here, *action)
            assert there[:2] == pytest.approx(expected[:2], abs=0.02)
            assert abs(turn_between(there[2], expected[2])) < 0.012
    # The same command again has nothing to do; another one does not mix its data in.
    assert record_walks(tmp_path / "a", 3, 50, 5, "test").frames == 0
    with pytest.raises(LociError, match="holds other data"):
        record_walks(tmp_path / "a", 3, 50, 6, "test")
    record_walks(tmp_path / "b", episodes=3, frames=50, seed=5, split="test", workers=2)
    assert np.array_equal(load_recordings(tmp_path / "b").frames, shards.frames)


def test_recording_leaves_nothing_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    film(1, spin(1))
    assert list(tmp_path.iterdir()) == []


def test_splits_share_no_map() -> None:
    train = {map_seed(s, e, "train") for s in range(20) for e in (*range(50), 999_999)}
    test = {map_seed(s, e, "test") for s in range(20) for e in (*range(50), 999_999)}
    assert not train & test
    assert len(train) == len(test) == 20 * 51


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 10, 1), "episodes 0"),
        ((1, 0, 1), "frames 0"),
        ((1, 10, -1), "seed -1"),
        ((2_000_000, 10, 1), "episodes 2000000"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, numbers: tuple[int, int, int], words: str
) -> None:
    with pytest.raises(LociError, match=words):
        record_walks(tmp_path / "a", *numbers, "train")
    assert list(tmp_path.iterdir()) == []
