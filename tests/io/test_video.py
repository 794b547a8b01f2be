import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from loci.errors import LociError
from loci.io.video import Beginning, VideoWriter, contact_sheet, read_frames, video_info


def waves(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Smooth moving colours, uint8 [count, height, width, 3]."""
    t, y, x = np.meshgrid(*map(np.arange, (count, height, width)), indexing="ij")
    colors = np.stack([np.sin(x / 9 + t / 5), np.cos(y / 7 - t / 6), np.sin((x + y) / 11)], -1)
    return (127 + 100 * colors).astype(np.uint8)


def decode(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate or 0)


def test_frames_come_back(tmp_path: Path) -> None:
    frames = waves(21)
    with VideoWriter(tmp_path / "a.mp4", fps=15) as video:
        video.write(frames[:8])
        video.write(frames[8:9])
        video.write(frames[9:])
    back, fps = decode(tmp_path / "a.mp4")
    assert fps == 15
    assert back.shape == frames.shape
    error = np.abs(back[:, None].astype(int) - frames[None]).mean((2, 3, 4))
    assert error.diagonal().max() < 5
    assert (error.argmin(1) == np.arange(21)).all(), "frames in another order"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


def test_scaled_frames_show_the_same(tmp_path: Path) -> None:
    frames = waves(5, 15, 17)
    with VideoWriter(tmp_path / "a.mp4", fps=30, scale=6) as video:
        video.write(frames)
    back, _ = decode(tmp_path / "a.mp4")
    assert back.shape == (5, 90, 102, 3)
    assert np.abs(back[:, 3::6, 3::6].astype(int) - frames).mean() < 6


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    for count in (9, 4):
        with VideoWriter(tmp_path / "a.mp4", fps=30) as video:
            video.write(waves(count))
    assert len(decode(tmp_path / "a.mp4")[0]) == 4


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError, match="midway"), VideoWriter(path, fps=30) as video:
        video.write(waves(4))
        raise RuntimeError("midway")
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_without_frames_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="no frame"), VideoWriter(tmp_path / "a.mp4", fps=30):
        pass
    assert list(tmp_path.iterdir()) == []


def test_unusable_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LociError, match=r"a\.avi.*\.mp4"):
        VideoWriter(tmp_path / "a.avi", fps=30)
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "folder.mp4", tmp_path / "nowhere" / "a.mp4"):
        with pytest.raises(LociError) as caught, VideoWriter(path, fps=30):
            pass
        assert str(path) in str(caught.value)


def test_sizes_must_agree_and_be_even(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"), VideoWriter(tmp_path / "a.mp4", fps=30) as video:
        video.write(waves(1, 15, 16))
    with pytest.raises(ValueError, match="after"), VideoWriter(tmp_path / "a.mp4", fps=30) as video:
        video.write(waves(1, 16, 16))
        video.write(waves(1, 32, 16))


def test_contact_sheet_lays_frames_in_rows() -> None:
    gray = np.arange(10, dtype=np.uint8)[:, None, None, None] * 20
    frames = gray + np.zeros((10, 16, 24, 3), np.uint8)
    sheet = np.asarray(contact_sheet(frames, every=2, columns=3))
    # Tiles of 24x16 under captions of 14, with gaps of 4.
    assert sheet.shape == (4 + 2 * (16 + 14 + 4), 4 + 3 * (24 + 4), 3)
    centers = [
        sheet[4 + 14 + 8 + 34 * row, 4 + 12 + 28 * column, 0]
        for row in (0, 1)
        for column in range(3)
    ]
    assert centers == [0, 40, 80, 120, 160, 255]
    captions = sheet[4:16, 4:28].min()
    assert captions < 128


def test_contact_sheet_of_few_frames_is_narrow() -> None:
    assert contact_sheet(waves(2, 16, 16), ["a", "b"], columns=8, scale=2).width == 4 + 2 * 36


def test_a_video_is_continued_after_any_of_its_frames(tmp_path: Path) -> None:
    frames = waves(40)
    path, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    with VideoWriter(path, fps=15, comment="walk 1") as video:
        video.write(frames[:25])
    before, _ = decode(path)
    with VideoWriter(path, 15, comment="walk 1", beginning=Beginning(path, 25)) as video:
        video.write(frames[25:])
    assert video_info(path) == (40, "walk 1")
    whole, fps = decode(path)
    assert fps == 15
    assert np.array_equal(whole[:25], before), "copied frames were compressed once more"
    with VideoWriter(other, 15, beginning=Beginning(path, 11)) as video:
        video.write(frames[31:])
    branch, _ = decode(other)
    assert np.array_equal(branch[:11], before[:11])
    for back, expected in ((whole, frames), (branch, np.r_[frames[:11], frames[31:]])):
        assert back.shape == expected.shape
        assert np.abs(back.astype(int) - expected).mean((1, 2, 3)).max() < 5
    assert np.array_equal(np.stack(list(read_frames(path, 25))), before)
    assert {p.name for p in tmp_path.iterdir()} == {"a.mp4", "b.mp4"}


def test_only_a_video_of_the_same_kind_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=15) as video:
        video.write(waves(4))
    kept = path.read_bytes()
    for fps, frames, size in ((30, 4, (32, 48)), (15, 5, (32, 48)), (15, 4, (48, 32))):
        with (
            pytest.raises(LociError, match=r"a.mp4: 4 frames of 48x32 at 15 a second, expected"),
            VideoWriter(path, fps, beginning=Beginning(path, frames)) as video,
        ):
            video.write(waves(2, *size))
    assert path.read_bytes() == kept


def test_a_browser_can_play_it_while_it_loads(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=15) as video:
        video.write(waves(9))
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_what_is_no_video_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    assert video_info(tmp_path / "a.mp4") is None
    assert video_info(tmp_path / "b.mp4") is None


def test_a_full_disk_names_the_video(tmp_path: Path) -> None:
    code = """
import resource, signal, sys, numpy as np
from loci.errors import LociError
from loci.io.video import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).integers(0, 256, (60, 256, 256, 3), dtype=np.uint8)
try:
    with VideoWriter(sys.argv[1], fps=15) as video:
        video.write(noise)
except LociError as error:
    print(error)
"""
    path = tmp_path / "a.mp4"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == f"{path}: cannot be written (File too large)\n", done.stderr
    assert list(tmp_path.iterdir()) == []
