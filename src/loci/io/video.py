"""Videos, written frame by frame and read; and contact sheets, a whole walk in one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from loci.errors import LociError
from loci.io.files import replacing

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream
    from jaxtyping import UInt8


class Beginning(NamedTuple):
    """The first frames of an older video, which a new one begins with."""

    path: Path
    frames: int


class VideoInfo(NamedTuple):
    """The header of an MP4."""

    frames: int
    comment: str


def video_info(path: str | Path) -> VideoInfo | None:
    """The number of frames and the comment of a video; None where there is no readable video."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            return VideoInfo(
                container.streams.video[0].frames, container.metadata.get("comment", "")
            )
    except (FFmpegError, OSError, IndexError):
        return None


def read_frames(path: str | Path, frames: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The first `frames` frames of a video, decoded one by one."""
    import av

    with av.open(str(path)) as container:
        for frame in islice(container.decode(video=0), frames):
            yield frame.to_ndarray(format="rgb24")


class VideoWriter:
    """An H.264 MP4 (yuv420p) that grows with `write` and appears at `path` when it is closed.

    Use it in a `with` block. When the block raises, or no frame was written, nothing is left at
    `path` but what was there before. Every frame depends on earlier ones only, so that a video can
    be continued after any of them; the index stands at the beginning of the file, so that a browser
    plays it while it loads.

    Args:
        path: name ending in `.mp4`; an older file is replaced.
        fps: frames per second.
        scale: each frame is enlarged this many times (Lanczos), so that small worlds are watchable.
        comment: kept in the file.
        beginning: frames of an older video of this class to begin with, copied as they are; it
            may be the one at `path`.

    Raises:
        LociError: when `path` is no `.mp4` or cannot be written, also when the disk is full.
    """

    def __init__(
        self,
        path: str | Path,
        fps: int,
        scale: int = 1,
        comment: str = "",
        beginning: Beginning | None = None,
    ) -> None:
        self.path, self.fps, self.scale = Path(path), fps, scale
        self.comment, self.beginning = comment, beginning
        if self.path.suffix.lower() != ".mp4":
            raise LociError(f"{path}: expected the name of a video to end in .mp4")
        self._stack: ExitStack
        self._container: OutputContainer
        self._stream: VideoStream | None = None
        self._frames = 0

    def __enter__(self) -> VideoWriter:
        import av

        with ExitStack() as stack:
            draft = stack.enter_context(replacing(self.path))
            front = {"movflags": "+faststart"}
            container = av.open(str(draft), "w", format="mp4", options=front)
            self._container = stack.enter_context(container)
            if self.comment:
                self._container.metadata["comment"] = self.comment
            self._stack = stack.pop_all()
        return self

    def write(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Appends frames, all of one size; their sides times `scale` must be even.

        Raises:
            ValueError: when frames are of another size than the first, or odd once scaled.
        """
        import av

        height, width = (side * self.scale for side in frames.shape[1:3])
        if self._stream is None:
            self._stream = self._begin(height, width)
        stream = self._stream
        if (height, width) != (stream.height, stream.width):
            raise ValueError(
                f"frames of {width}x{height} after frames of {stream.width}x{stream.height}"
            )
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(width, height, "yuv420p", interpolation="LANCZOS")
            frame.pts, frame.time_base = self._frames, Fraction(1, self.fps)
            self._frames += 1
            self._container.mux(stream.encode(frame))

    def _begin(self, height: int, width: int) -> VideoStream:
        """The stream, with the frames of an older video if there is one."""
        if height % 2 or width % 2:
            raise ValueError(f"frames of {width}x{height}, expected even sides")
        stream = self._container.add_stream("libx264", rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        stream.codec_context.max_b_frames = 0
        if self.beginning is not None:
            self._copy(stream, *self.beginning)
        return stream

    def _copy(self, stream: VideoStream, path: Path, frames: int) -> None:
        import av
        from av.bitstream import BitStreamFilterContext

        self._container.start_encoding()
        with av.open(str(path)) as older:
            old = older.streams.video[0]
            size, expected = (old.width, old.height), (stream.width, stream.height)
            if size != expected or old.average_rate != self.fps or old.frames < frames:
                raise LociError(
                    f"{path}: {old.frames} frames of {size[0]}x{size[1]} at {old.average_rate} a "
                    f"second, expected {frames} of {expected[0]}x{expected[1]} at {self.fps}"
                )
            # As the encoder writes them; an MP4 holds them with lengths in place of start codes.
            with_start_codes = BitStreamFilterContext("h264_mp4toannexb", old)
            for packet in islice(older.demux(old), frames):
                for part in with_start_codes.filter(packet):
                    part.stream = stream
                    self._container.mux(part)
        self._frames = frames

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The stack closes the container, then puts the file in its place, or removes it on errors.
        with self._stack:
            if error is not None:
                raise error
            if self._stream is None:
                raise LociError(f"{self.path}: no frame was written")
            self._container.mux(self._stream.encode(None))


def contact_sheet(
    frames: UInt8[np.ndarray, "t h w 3"],
    captions: Sequence[str] | None = None,
    every: int = 1,
    columns: int = 8,
    scale: int = 1,
) -> Image.Image:
    """Every `every`-th frame, in rows of `columns`, under its caption (its index by default).

    Args:
        frames: RGB, at least one.
        captions: one for each of `frames`.
        scale: each frame is enlarged this many times (Lanczos).
    """
    captions = [str(i) for i in range(len(frames))] if captions is None else captions
    frames, captions = frames[::every], captions[::every]
    height, width = (side * scale for side in frames.shape[1:3])
    line, gap = 14, 4
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    size = (columns * (width + gap) + gap, rows * (height + line + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10)
    for i, (pixels, caption) in enumerate(zip(frames, captions, strict=True)):
        left = gap + i % columns * (width + gap)
        top = gap + i // columns * (height + line + gap)
        draw.text((left, top), caption, fill="black", font=font)
        tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(tile, (left, top + line))
    return sheet
