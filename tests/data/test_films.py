"""Labelled films as sets of equal walks."""

import json
from pathlib import Path

import numpy as np
import pytest

from loci.data import recordings
from loci.data.films import assemble, certain_shares, describe_film, write_film
from loci.data.recordings import load_recordings
from loci.errors import LociError


def add_film(
    folder: Path,
    name: str,
    frames: int = 80,
    fov: float = 51.0,
    fps: float = 15.0,
    runs: tuple[int, ...] = (0,),
) -> None:
    """A clip whose frames are all of one value, their number, and whose every other move is
    uncertain."""
    clip = folder / "clips" / name
    clip.mkdir(parents=True)
    number = np.arange(frames)
    pixels = np.broadcast_to(number[:, None, None, None], (frames, 32, 32, 3))
    actions = np.column_stack([np.where(number % 2, 9, 1), np.full(frames, 3)])
    poses = np.column_stack([number, 0 * number, 4.0 * number])
    write_film(clip, pixels, actions, poses)
    describe_film(clip, runs, fps, fov, 4.0)


def test_walks_do_not_cross_cuts_and_the_held_out_ones_are_not_trained_on(tmp_path: Path) -> None:
    add_film(tmp_path, "one", frames=80, runs=(0, 30))
    sets = assemble(tmp_path, 16)
    train, test = (load_recordings(tmp_path / name) for name in ("train", "test"))
    first = [int(s.frames[i, 0][0, 0, 0]) for s in (train, test) for i in range(len(s.frames))]
    assert sorted(first) == [0, 14, 30, 46, 62, 64], "with the ends of both runs"
    assert sets == {"train": len(train.frames), "test": 1, "frames": 16}
    held_out = int(test.frames[0, 0, 0, 0, 0])
    for walk in range(len(train.frames)):
        begin = int(train.frames[walk, 0, 0, 0, 0])
        assert begin + 16 <= held_out or begin >= held_out + 16
    assert certain_shares(tmp_path) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"fov": 40.0}, r"two has a field of view of 40.0 degrees and one of 51.0, expected"),
        ({"fps": 10.0}, r"two has a rate of 10.0 frames a second and one of 15.0, expected"),
    ],
)
def test_films_that_one_model_cannot_address_are_refused(
    tmp_path: Path, other: dict[str, float], reason: str
) -> None:
    add_film(tmp_path, "one")
    add_film(tmp_path, "two", **other)  # type: ignore
    with pytest.raises(LociError, match=reason):
        assemble(tmp_path, 16)
    assert not (tmp_path / "train").exists()


def test_films_that_nearly_agree_are_taken(tmp_path: Path) -> None:
    add_film(tmp_path, "one", fov=51.0)
    add_film(tmp_path, "two", fov=52.0)
    assemble(tmp_path, 16)
    assert json.loads((tmp_path / "train" / "meta.json").read_text())["fov_degrees"] == 51.5


def test_a_film_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty hours are read in minutes; films without a hash have theirs computed."""
    add_film(tmp_path, "one")
    add_film(tmp_path, "two")
    assemble(tmp_path, 16)
    first = load_recordings(tmp_path / "train").digest
    with monkeypatch.context() as patch:
        patch.setattr(recordings, "content_digest", lambda arrays: pytest.fail("read again"))
        assert load_recordings(tmp_path / "train").digest == first
    (tmp_path / "clips" / "one" / "sha256.txt").unlink()
    old = load_recordings(tmp_path / "train").digest
    assert old != first
    frames = np.load(tmp_path / "clips" / "one" / "frames.npy", mmap_mode="r+")
    frames[0] += 1
    assert load_recordings(tmp_path / "train").digest not in (old, first)
