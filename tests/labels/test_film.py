from pathlib import Path

import numpy as np
import pytest

from loci.errors import LociError
from loci.labels.film import (
    FrameTimes,
    _upright,
    analysed,
    film_info,
    fitted,
    fitted_fov,
    read_film,
)
from tests.labels.room import write_film


def grey(levels: list[int]) -> list[np.ndarray]:
    return [np.full((48, 64, 3), level, np.uint8) for level in levels]


def levels(path: Path, fps: float, seen: FrameTimes | None = None) -> list[int]:
    return [round(float(frame.mean()) / 10) for _, frame in read_film(path, fps, seen)]


def test_even_times_of_an_even_film(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", grey([10 * i for i in range(20)]), fps=30)
    seen = FrameTimes()
    assert levels(path, 15, seen) == list(range(0, 20, 2))
    assert len(seen.times) == 20
    assert levels(path, 30) == list(range(20))
    assert film_info(path).fps == pytest.approx(30, rel=0.05)


def test_even_times_of_an_uneven_film(tmp_path: Path) -> None:
    stamps = [0, 30, 110, 190, 200, 210, 310, 700, 800]
    path = write_film(tmp_path / "a.mp4", grey([10 * i for i in range(9)]), stamps=stamps)
    assert levels(path, 10) == [0, 2, 4, 6, 7, 8]


def test_small_frames_and_their_field_of_view() -> None:
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[:, 35:125] = 200
    assert (fitted(frame, (30, 30)) == 200).all()
    assert fitted_fov(90, 160, 90, (30, 30)) == pytest.approx(
        np.degrees(2 * np.arctan(90 / 160)), abs=0.01
    )
    assert analysed(np.zeros((720, 1280, 3), np.uint8)).shape == (360, 640)


def test_a_film_on_its_side_is_turned_upright() -> None:
    frame = np.zeros((2, 3, 3), np.uint8)
    frame[0, 2] = 255  # the top right corner becomes the top left: counter-clockwise
    assert _upright(frame, 90).shape == (3, 2, 3)
    assert _upright(frame, 90)[0, 0, 0] == 255
    assert _upright(frame, -90)[2, 1, 0] == 255


def test_what_is_no_film_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "a.mp4").write_bytes(b"no film at all")
    with pytest.raises(LociError, match=r"a\.mp4: cannot be read as a film"):
        film_info(path)
    with pytest.raises(LociError, match="cannot be read"):
        film_info(tmp_path / "none.mp4")
