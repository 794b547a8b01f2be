"""Films of a level by hand."""

import numpy as np
import pytest

from loci import cli
from loci.data.level_film import HEIGHT, RENDERED_HEIGHT, RENDERED_WIDTH, WIDTH, as_held

FOV = 65.0
FOCAL = WIDTH / 2 / np.tan(np.radians(FOV / 2))


def seen_at(pitch: float, roll: float, x: float, y: float) -> np.ndarray:
    """Where a dot at (x, y) from the middle of a level camera's picture is in a tilted one's."""
    picture = np.zeros((RENDERED_HEIGHT, RENDERED_WIDTH, 3), np.uint8)
    column, row = round((RENDERED_WIDTH - 1) / 2 + x), round((RENDERED_HEIGHT - 1) / 2 + y)
    picture[row - 2 : row + 3, column - 2 : column + 3] = 255
    weight = as_held(picture, pitch, roll, FOV)[..., 0].astype(float)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    center = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    return center - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]


def test_a_level_camera_keeps_the_middle() -> None:
    assert seen_at(0, 0, 100, -50) == pytest.approx([100, -50], abs=0.6)


def test_a_camera_that_looks_up_sees_things_lower_and_rolls_turn_them() -> None:
    down = FOCAL * np.tan(np.radians(3.0))
    assert seen_at(3.0, 0, 0, 0) == pytest.approx([0, down], abs=0.7)
    # Clockwise roll: what was to the right moves up.
    x, y = seen_at(0, 2.0, 200, 0)
    angle = np.radians(2.0)
    assert (x, y) == pytest.approx((200 * np.cos(angle), -200 * np.sin(angle)), abs=0.7)


@pytest.mark.parametrize(("flag", "value"), [("--minutes", "0"), ("--fov", "120")])
def test_refusals(flag: str, value: str, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "film", "--out", str(tmp_path / "x.mp4"), flag, value]) == 2
    assert f"{flag}: {value}, expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_film_and_its_true_poses(tmp_path) -> None:
    pytest.importorskip("vizdoom", reason="the extra `doom` is not installed")
    out = tmp_path / "film.mp4"
    assert cli.main(["data", "film", "--out", str(out), "--minutes", "0.02"]) == 0
    from loci.io.video import video_info

    info = video_info(out)
    assert info is not None
    assert info.frames == 36
    assert np.loadtxt(tmp_path / "film.txt").shape == (36, 4)
