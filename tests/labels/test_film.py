from pathlib import Path

import av
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
    undistorted,
)
from tests.labels.room import write_film


def gray(levels: list[int]) -> list[np.ndarray]:
    return [np.full((48, 64, 3), level, np.uint8) for level in levels]


def levels(path: Path, fps: float, seen: FrameTimes | None = None) -> list[int]:
    return [round(float(frame.mean()) / 10) for _, frame in read_film(path, fps, seen)]


def test_even_times_of_an_even_film(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", gray([10 * i for i in range(20)]), fps=30)
    seen = FrameTimes()
    assert levels(path, 15, seen) == list(range(0, 20, 2))
    assert len(seen.times) == 20
    assert levels(path, 30) == list(range(20))
    assert film_info(path).fps == pytest.approx(30, rel=0.05)


def test_even_times_of_an_uneven_film(tmp_path: Path) -> None:
    stamps = [0, 30, 110, 190, 200, 210, 310, 700, 800]
    path = write_film(tmp_path / "a.mp4", gray([10 * i for i in range(9)]), stamps=stamps)
    assert levels(path, 10) == [0, 2, 4, 6, 7, 8]


def test_small_frames_and_their_field_of_view() -> None:
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[:, 35:125] = 200
    assert (fitted(frame, (30, 30)) == 200).all()
    assert fitted_fov(90, 160, 90, (30, 30)) == pytest.approx(
        np.degrees(2 * np.arctan(90 / 160)), abs=0.01
    )
    assert analysed(np.zeros((720, 1280, 3), np.uint8)).shape == (360, 640)


def test_a_lens_that_bends_lines_is_straightened() -> None:
    bend, focal = -0.2, 320 / np.tan(np.radians(35))
    frame = np.zeros((480, 640, 3), np.uint8)
    corner = np.array([200.0, 150.0])
    x, y = np.rint(corner * (1 + bend * (corner**2).sum() / focal**2) + [319.5, 239.5]).astype(int)
    frame[y - 2 : y + 3, x - 2 : x + 3] = 255
    straight = undistorted(frame, bend, 70)[..., 0].astype(float)
    rows, columns = np.mgrid[:480, :640]
    found = np.array([(columns * straight).sum(), (rows * straight).sum()]) / straight.sum()
    assert found - [319.5, 239.5] == pytest.approx(corner, abs=0.8)
    assert undistorted(frame, 0.0, 70) is frame
    with pytest.raises(LociError, match=r"--distortion: -0\.5 at 110 degrees folds the corners"):
        undistorted(frame, -0.5, 110)


def test_a_film_on_its_side_is_turned_upright() -> None:
    frame = np.zeros((2, 3, 3), np.uint8)
    frame[0, 2] = 255  # the top right corner becomes the top left: counter-clockwise
    assert _upright(frame, 90).shape == (3, 2, 3)
    assert _upright(frame, 90)[0, 0, 0] == 255
    assert _upright(frame, -90)[2, 1, 0] == 255


def test_a_phone_s_film_that_says_how_it_was_held_is_read_upright(tmp_path: Path) -> None:
    upright = np.zeros((64, 48, 3), np.uint8)
    upright[:16, :12] = 250  # top left
    path = write_film(tmp_path / "a.mp4", [np.rot90(upright, 1)] * 20)
    one, none = (1 << 16).to_bytes(4, "big"), bytes(4)
    before = one + none * 3 + one + none * 3 + (1 << 30).to_bytes(4, "big")
    clockwise = none + one + none + (2**32 - (1 << 16)).to_bytes(4, "big") + none * 4
    clockwise += (1 << 30).to_bytes(4, "big")
    content = path.read_bytes()
    track = content.index(b"tkhd")
    head, rest = content[:track], content[track:]
    assert before in rest
    path.write_bytes(head + rest.replace(before, clockwise, 1))
    info = film_info(path)
    assert (info.width, info.height) == (48, 64)
    assert info.warnings == ("filmed sideways: turned upright by 270 degrees",)
    _, frame = next(iter(read_film(path, 15)))
    assert frame.shape == (64, 48, 3)
    assert frame[4:12, 4:8].min() > 220
    assert frame[24:, 20:].max() < 30


@pytest.mark.parametrize(("transfer", "refused"), [(16, True), (18, False)])
def test_films_in_hdr(tmp_path: Path, transfer: int, refused: bool) -> None:
    """PQ is refused, since ordinary decoding makes it grey; HLG is taken with a warning."""
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.color_trc = transfer
        for pixels in gray([100] * 20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    if refused:
        with pytest.raises(LociError, match=r"an HDR film \(PQ\), expected ordinary colours"):
            film_info(path)
    else:
        assert film_info(path).warnings == (
            "HDR film (HLG): colours are those of an ordinary screen",
        )


def test_what_is_no_film_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "a.mp4").write_bytes(b"no film at all")
    with pytest.raises(LociError, match=r"a\.mp4: cannot be read as a film"):
        film_info(path)
    with pytest.raises(LociError, match="cannot be read"):
        film_info(tmp_path / "none.mp4")
