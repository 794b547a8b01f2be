"""A textured room to film: exact pictures from any pose, and films of them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT, FOV = 320, 240, 75.0
HALF = np.array([6.0, 2.0, 9.0])  # metres from the middle to the walls, the floor and the ceiling
_rng = np.random.default_rng(0)
_LAYERS = [
    cv2.resize(_rng.random((n, n, 3)).astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)
    for n in (16, 48, 128)
]
_TEXTURE = np.clip(np.sum(_LAYERS, axis=0) * 75, 0, 255).astype(np.float32)


def picture(pose: np.ndarray) -> np.ndarray:
    """What a camera sees; twice as fine, then halved."""
    width, height = 2 * WIDTH, 2 * HEIGHT
    focal = width / 2 / np.tan(np.radians(FOV / 2))
    x, y = np.meshgrid(np.arange(width) - width / 2 + 0.5, np.arange(height) - height / 2 + 0.5)
    rays = np.stack([x / focal, y / focal, np.ones_like(x)], axis=-1) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        reach = (np.sign(rays) * HALF - pose[:3, 3]) / rays
    side = reach.argmin(axis=-1)
    hit = pose[:3, 3] + rays * reach.min(axis=-1)[..., None]
    u = np.where(side == 0, hit[..., 2], hit[..., 0])
    v = np.where(side == 1, hit[..., 2], hit[..., 1])
    at = [(part * 60 + 170 * side).astype(np.float32) % 511 for part in (u, v)]
    seen = cv2.remap(_TEXTURE, at[0], at[1], cv2.INTER_LINEAR)
    return cv2.resize(seen, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8)


STEPS = {"w": (0, 0, 0.12), "s": (0, 0, -0.12), "a": (-0.12, 0, 0), "d": (0.12, 0, 0)}
TURNS = {"j": (0, -2.5, 0), "l": (0, 2.5, 0), "i": (2.0, 0, 0), "k": (-2.0, 0, 0)}


def walk(keys: Sequence[str]) -> np.ndarray:
    """Camera poses `[n + 1, 4, 4]` of words of keys, one word a frame."""
    poses = [np.eye(4)]
    for word in keys:
        step = np.eye(4)
        for key in word:
            if key in TURNS:
                turn = Rotation.from_rotvec(TURNS[key], degrees=True).as_matrix()
                step[:3, :3] = step[:3, :3] @ turn
        for key in word:
            if key in STEPS:
                step[:3, 3] += step[:3, :3] @ STEPS[key]
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def write_film(
    path: Path, frames: Sequence[np.ndarray], fps: int = 15, stamps: Sequence[int] | None = None
) -> Path:
    """H.264; with stamps in milliseconds, of a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "12", "preset": "veryfast"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(1000 * number / fps) if stamps is None else stamps[number]
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
