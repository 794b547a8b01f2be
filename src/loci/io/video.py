"""Frames out: a video file as they come, and a contact sheet to see a whole walk at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from loci.errors import LociError
from loci.io.files import replacing

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream


class VideoWriter:
    """An H.264 MP4 (yuv420p) that grows with `write` and appears at `path` when it is closed.

    Use it in a `with` block. When the block raises, or no frame was written, nothing is left at
    `path` but what was there before.

    Args:
        path: name ending in `.mp4`; an older file is replaced, never appended to.
        fps: frames per second.
        scale: each frame is enlarged this many times (Lanczos), so that small worlds are watchable.

    Raises:
        LociError: when `path` is no `.mp4` or cannot be written.
    """

    def __init__(self, path: str | Path, fps: int, scale: int = 1) -> None:
        self.path, self.fps, self.scale = Path(path), fps, scale
        if self.path.suffix.lower() != ".mp4":
            raise LociError(f"{path}: expected the name of a video to end in .mp4")
        self._stack: ExitStack
        self._container: OutputContainer
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        import av

        with ExitStack() as stack:
            part = stack.enter_context(replacing(self.path))
            self._container = stack.enter_context(av.open(str(part), "w", format="mp4"))
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
            if height % 2 or width % 2:
                raise ValueError(f"frames of {width}x{height}, expected even sides")
            stream = self._container.add_stream("libx264", rate=self.fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "18", "preset": "veryfast"}
            self._stream = stream
        stream = self._stream
        if (height, width) != (stream.height, stream.width):
            raise ValueError(
                f"frames of {width}x{height} after frames of {stream.width}x{stream.height}"
            )
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(width, height, "yuv420p", interpolation="LANCZOS")
            self._container.mux(stream.encode(frame))

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
    labels: Sequence[str] | None = None,
    every: int = 1,
    columns: int = 8,
    scale: int = 1,
) -> Image.Image:
    """Every `every`-th frame, in rows of `columns`, each under its label (its index if not given).

    Args:
        frames: RGB, at least one.
        labels: one for each of `frames`.
        scale: each frame is enlarged this many times (Lanczos).
    """
    labels = [str(i) for i in range(len(frames))] if labels is None else labels
    frames, labels = frames[::every], labels[::every]
    height, width = (side * scale for side in frames.shape[1:3])
    caption, gap = 14, 4
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    size = (columns * (width + gap) + gap, rows * (height + caption + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10)
    for i, (pixels, label) in enumerate(zip(frames, labels, strict=True)):
        left = gap + i % columns * (width + gap)
        top = gap + i // columns * (height + caption + gap)
        draw.text((left, top), label, fill="black", font=font)
        tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(tile, (left, top + caption))
    return sheet
