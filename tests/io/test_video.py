from pathlib import Path

import av
import numpy as np
import pytest

from loci.errors import LociError
from loci.io.video import VideoWriter, contact_sheet


def waves(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Smooth moving colours, uint8 [count, height, width, 3]."""
    t, y, x = np.meshgrid(*map(np.arange, (count, height, width)), indexing="ij")
    colours = np.stack([np.sin(x / 9 + t / 5), np.cos(y / 7 - t / 6), np.sin((x + y) / 11)], -1)
    return (127 + 100 * colours).astype(np.uint8)


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
    grey = np.arange(10, dtype=np.uint8)[:, None, None, None] * 20
    frames = grey + np.zeros((10, 16, 24, 3), np.uint8)
    sheet = np.asarray(contact_sheet(frames, every=2, columns=3))
    # Tiles of 24x16 under captions of 14, with gaps of 4.
    assert sheet.shape == (4 + 2 * (16 + 14 + 4), 4 + 3 * (24 + 4), 3)
    centres = [
        sheet[4 + 14 + 8 + 34 * row, 4 + 12 + 28 * column, 0]
        for row in (0, 1)
        for column in range(3)
    ]
    assert centres == [0, 40, 80, 120, 160, 255]
    captions = sheet[4:16, 4:28].min()
    assert captions < 128


def test_contact_sheet_of_few_frames_is_narrow() -> None:
    assert contact_sheet(waves(2, 16, 16), ["a", "b"], columns=8, scale=2).width == 4 + 2 * 36
