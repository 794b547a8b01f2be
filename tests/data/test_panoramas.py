"""Recordings in 360-degree photographs, and in random colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loci.data.panoramas import panoramas
from loci.data.recolor import Recolor
from loci.data.recordings import load_recordings
from loci.errors import LociError


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((128, 64), Image.Resampling.BICUBIC).save(
            folder / f"{k}.png"
        )
    return folder


def test_walks_return_exactly_and_are_addressed_by_turns(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    panoramas(photographs, out, walks=3, frames=120, size=16)
    assert "3 walks of 120 frames in 2 photographs" in capsys.readouterr().out
    found = load_recordings(out)
    assert found.frames.shape == (3, 120, 16, 16, 3)
    assert found.poses is not None
    assert found.info.turn_degrees == 7.5
    for walk in range(3):
        frames, headings = found.frames[walk], found.poses[walk, :, 2]
        views = found.actions[walk, :-1, 1]
        assert not found.actions[walk, :, 0].any()
        np.testing.assert_allclose(
            np.diff(headings), np.where(views == 3, 7.5, np.where(views == 4, -7.5, 0)), atol=1e-4
        )
        again = [
            (a, b)
            for a in range(120)
            for b in range(a + 2, 120)
            if abs((headings[a] - headings[b] + 180) % 360 - 180) < 1e-3
        ]
        assert again, "walks come back"
        assert all(np.array_equal(frames[a], frames[b]) for a, b in again)
    first, second = found.frames[0, 0], found.frames[2, 0]
    assert not np.array_equal(first, second), "walks in one photograph differ"


def test_the_same_seed_records_the_same(photographs: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        panoramas(photographs, tmp_path / name, walks=1, frames=8, size=16, seed=seed)
    a, b, c = (load_recordings(tmp_path / name) for name in "abc")
    assert a.digest == b.digest != c.digest


def test_what_is_no_panorama_is_named(photographs: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(photographs / "1.png")
    with pytest.raises(LociError, match=r"1\.png: picture of 64x64 pixels"):
        panoramas(photographs, tmp_path / "out", walks=2, frames=8, size=16)
    with pytest.raises(LociError, match="expected 360-degree photographs"):
        panoramas(tmp_path, tmp_path / "out")
    with pytest.raises(LociError, match="--frames: 0, expected at least 1"):
        panoramas(photographs, tmp_path / "out", frames=0)


def test_a_walk_has_one_change_of_colors() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    recolor = Recolor(np.random.default_rng(3))
    changed = recolor(frames)
    assert changed.shape == frames.shape
    assert changed.dtype == np.uint8
    assert np.array_equal(changed[1], recolor(frames[1])), "the same for every frame"
    assert np.abs(changed.astype(int) - frames).mean() > 10
    other = Recolor(np.random.default_rng(4))(frames)
    assert np.abs(changed.astype(int) - other).mean() > 10
    gray = np.full((1, 3), 90, np.uint8)
    assert np.abs(recolor(gray).astype(int) - gray).max() < 90, "grey stays near grey"
