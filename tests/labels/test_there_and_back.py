"""A film played there and back: the same frames at the same poses, and the opposite keys."""

import numpy as np
import pytest

from loci.actions import MOVES, UNCERTAIN, VIEWS
from loci.labels.clip import LabelledClip, LabelOptions, label_clip
from loci.labels.motion import planar_increments
from loci.labels.there_and_back import OPPOSITE, there_and_back
from tests.labels.room import FOV, picture, walk, write_film

KEYS = ["w"] * 12 + ["wl"] * 10 + ["d"] * 8
SWAPPED = {"forward": "back", "left": "right", "up": "down"}
SWAPPED |= {after: before for before, after in SWAPPED.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> LabelledClip:
    """Two runs: the film begins again after a cut, from another place."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    away = np.eye(4)
    away[:3, :3] = np.diag([-1.0, 1, -1])  # turned around
    poses = [*walk(KEYS), *(away @ walk(["w"] * 18))]
    write_film(path, [picture(pose) for pose in poses])
    found = label_clip(path, LabelOptions(fov=FOV))
    assert found.runs == (0, len(KEYS) + 1)
    return found


@pytest.mark.parametrize("names", [MOVES, VIEWS])
def test_every_id_has_the_opposite_name(names: tuple[str, ...]) -> None:
    for name, other in zip(names, OPPOSITE, strict=True):
        words = [SWAPPED.get(word, word) for word in name.split()]
        assert " ".join(words) == names[other]


def test_each_run_ends_where_it_begins(clip: LabelledClip) -> None:
    played = there_and_back(clip, 2)
    first, second = 4 * len(KEYS) + 1, 4 * 18 + 1
    assert played.runs == (0, first)
    assert len(played.frames) == first + second
    for begin, size, source in ((0, len(KEYS), 0), (first, 18, len(KEYS) + 1)):
        for trip in range(2):
            start = begin + 2 * size * trip
            there = slice(source, source + size + 1)
            ways = slice(start, start + size + 1), slice(start + size, start + 2 * size + 1)
            for field in ("frames", "poses", "cameras", "times"):
                once, often = getattr(clip, field)[there], getattr(played, field)
                assert (often[ways[0]] == once).all()
                assert (often[ways[1]] == once[::-1]).all()


def test_steps_back_undo_steps_there(clip: LabelledClip) -> None:
    size = len(KEYS)
    played = there_and_back(clip, 1)
    there, back = played.actions[:size], played.actions[size : 2 * size][::-1]
    assert (there == clip.actions[:size]).all()
    assert (back == OPPOSITE[there]).all()
    assert {1, 4} <= set(there[:, 0].tolist()), "forward and right, or this shows nothing"
    assert (played.certain == (played.actions != UNCERTAIN)).all()
    assert played.actions[-1].tolist() == [UNCERTAIN, UNCERTAIN]
    increments = planar_increments(played.poses)
    within = np.arange(len(increments)) != 2 * size
    assert (played.increments[within] == increments[within]).all()
    assert played.increments[:size, 2] == pytest.approx(
        -played.increments[size : 2 * size, 2][::-1]
    )
    assert (played.covariance[size : 2 * size] == clip.covariance[:size][::-1]).all()


def test_a_cut_stays_a_cut(clip: LabelledClip) -> None:
    played = there_and_back(clip, 1)
    cut, before = played.runs[1] - 1, clip.runs[1] - 1
    assert played.actions[cut].tolist() == [UNCERTAIN, UNCERTAIN]
    assert (played.increments[cut] == 0).all()
    assert (played.covariance[cut] == clip.covariance[before]).all()
