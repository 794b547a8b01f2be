"""Films as frames at even times: upright, grey for odometry and small for a model.

Frames keep their time stamps, so that films of a variable rate are sampled at even times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from loci.errors import LociError

if TYPE_CHECKING:
    from av import VideoFrame

ANALYSED_WIDTH = 640
"""Pixels of the longer side of the frames that are analysed."""
MIN_FRAMES = 16
_PQ, _HLG = 16, 18  # transfer characteristics of HDR, as in H.273


@dataclass(frozen=True)
class FilmInfo:
    """What a film says of itself: frames per second as it was filmed, size once upright, and
    anything odd about it."""

    fps: float
    width: int
    height: int
    warnings: tuple[str, ...] = ()


@dataclass
class FrameTimes:
    """Filled while a film is read: the time of every decoded frame, in seconds from the first."""

    times: list[float] = field(default_factory=list)
    repeated: int = 0


def film_info(path: Path) -> FilmInfo:
    """Opens a film and looks at its first frame.

    Raises:
        LociError: when there is no film, or it is HDR of the kind that ordinary decoding ruins.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise LociError(f"{path}: no video in it, expected a film")
            stream = container.streams.video[0]
            frame = next(container.decode(stream), None)
            if frame is None:
                raise LociError(f"{path}: no frames, expected a film")
            rate = float(stream.average_rate or stream.guessed_rate or 30)
            upright = _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
            transfer = int(frame.color_trc)
    except OSError as error:  # FFmpegError of a missing file is one as well
        raise LociError(f"{path}: cannot be read as a film ({error.strerror})") from error
    except FFmpegError as error:
        raise LociError(f"{path}: cannot be read as a film ({error.strerror})") from error
    if transfer == _PQ:
        raise LociError(
            f"{path}: an HDR film (PQ), expected ordinary colours: convert it first, "
            "for example with ffmpeg's zscale and tonemap"
        )
    warnings = (
        ["HDR film (HLG): colours are those of an ordinary screen"] if transfer == _HLG else []
    )
    if frame.rotation:
        warnings.append(f"filmed sideways: turned upright by {frame.rotation % 360} degrees")
    return FilmInfo(rate, upright.shape[1], upright.shape[0], tuple(warnings))


def read_film(
    path: Path, fps: float, seen: FrameTimes | None = None
) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """Upright frames nearest to times 0, 1 / fps, 2 / fps ..., with the time that each was taken.

    Args:
        path: the film.
        fps: how many a second; of a film with fewer, frames are not repeated.
        seen: where the times of all frames are noted.

    Raises:
        LociError: when the film is damaged from the beginning.
    """
    due, before = 0, None
    for time, frame, rotation in _decoded(path, seen):
        # The frame before is taken where it is nearer to when one is due.
        while before is not None and abs(before[0] - due / fps) <= abs(time - due / fps):
            yield before[0], _upright(before[1].to_ndarray(format="rgb24"), before[2])
            due = max(due + 1, int(np.floor(before[0] * fps + 0.5)) + 1)
            before = None
        before = time, frame, rotation
    if before is not None and before[0] >= (due - 0.5) / fps:
        yield before[0], _upright(before[1].to_ndarray(format="rgb24"), before[2])


def _decoded(path: Path, seen: FrameTimes | None) -> Iterator[tuple[float, VideoFrame, int]]:
    import av
    from av.error import FFmpegError

    first = last = None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 30)
        frames = container.decode(stream)
        number = 0
        while True:
            try:
                frame = next(frames, None)
            except FFmpegError as error:
                if last is None:
                    raise LociError(f"{path}: damaged film ({error.strerror})") from error
                break  # a film that breaks off
            if frame is None:
                break
            time = frame.time if frame.time is not None else number / rate
            number += 1
            first = time if first is None else first
            if last is not None and time <= last:
                if seen is not None:
                    seen.repeated += 1
                continue
            last = time
            if seen is not None:
                seen.times.append(time - first)
            yield time - first, frame, frame.rotation


def _upright(pixels: UInt8[np.ndarray, "h w 3"], rotation: int) -> UInt8[np.ndarray, "h w 3"]:
    """Turned counter-clockwise by a multiple of 90 degrees, as the film says."""
    return np.rot90(pixels, round(rotation / 90) % 4)


def undistorted(
    frame: UInt8[np.ndarray, "h w 3"], distortion: float, fov: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame as a lens without distortion sees it, of the same size and focal length.

    Args:
        frame: of the film.
        distortion: of its lens, one radial term: a point at r focal lengths from the middle of the
            result is at r (1 + distortion r^2) in the frame. Negative where straight lines bulge.
        fov: horizontal field of view in degrees of the result.

    Raises:
        LociError: when the frame would be folded at its corners.
    """
    if not distortion:
        return frame
    height, width = frame.shape[:2]
    return cv2.remap(
        np.ascontiguousarray(frame),
        *_distorted_grid(height, width, distortion, fov),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


@lru_cache(maxsize=1)
def _distorted_grid(
    height: int, width: int, distortion: float, fov: float
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Column and row in the film of every pixel of the result."""
    focal = width / 2 / np.tan(np.radians(fov / 2))
    middle = np.array([width - 1, height - 1]) / 2
    rows, columns = np.mgrid[:height, :width]
    x, y = (columns - middle[0]) / focal, (rows - middle[1]) / focal
    square = x**2 + y**2
    if 1 + 3 * distortion * square.max() <= 0:
        raise LociError(
            f"--distortion: {distortion:g} at {fov:.0f} degrees folds the corners, expected a "
            "number nearer to 0"
        )
    bend = focal * (1 + distortion * square)
    return (x * bend + middle[0]).astype(np.float32), (y * bend + middle[1]).astype(np.float32)


def analysed(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """The grey frame for odometry."""
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    scale = ANALYSED_WIDTH / max(gray.shape)
    if scale >= 1:
        return gray
    size = round(gray.shape[1] * scale), round(gray.shape[0] * scale)
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def fitted(
    frame: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """The middle of a frame, of the shape of `size` (height, width), scaled to it by area."""
    height, width = frame.shape[:2]
    scale = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = np.ascontiguousarray(frame[top : top + rows, left : left + columns])
    return cv2.resize(middle, size[::-1], interpolation=cv2.INTER_AREA)


def fitted_fov(fov: float, width: int, height: int, size: tuple[int, int]) -> float:
    """Horizontal field of view in degrees of what `fitted` keeps of a frame with one of `fov`."""
    scale = min(height / size[0], width / size[1])
    kept = size[1] * scale / width
    return float(np.degrees(2 * np.arctan(kept * np.tan(np.radians(fov / 2)))))
