"""Filming a Freedoom level by hand: `loci data film`.

The film stands for one of a phone: inertia, shake, compression, and textures, stairs and light that
no model here was trained on. Beside it lie the true poses, to measure with: labels and training
know nothing of them.
"""

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from loci.errors import LociError, check_seed, install_hint
from loci.io.files import check_writable, replacing
from loci.io.video import VideoWriter

WIDTH, HEIGHT = 640, 480
RENDERED_WIDTH, RENDERED_HEIGHT = 800, 600


def film(
    out: Path,
    level: int = 4,
    minutes: float = 10.0,
    seed: int = 1,
    fov: float = 65.0,
    fps: int = 30,
) -> None:
    """Film a Freedoom level by hand, to try labels and training on a film with known truth.

    Beside FILM.mp4 the true poses of its frames are written, FILM.txt (seconds, x and y in map
    units, the heading in degrees).

    Args:
        out: the film to write, 640x480 pixels.
        level: a level of freedoom2.wad, 1 to 32. Doors stay closed: some levels are a single room.
        minutes: how long.
        seed: seed of the walk and the hand.
        fov: field of view across the film in degrees.
        fps: frames per second.
    """
    if not 0 < minutes <= 600:
        raise LociError(f"--minutes: {minutes:g}, expected more than 0 and at most 600")
    if not 30 <= fov <= 90:
        raise LociError(f"--fov: {fov:g}, expected 30 to 90")
    if not 10 <= fps <= 60:
        raise LociError(f"--fps: {fps}, expected 10 to 60")
    check_seed(seed, "--seed")
    missing = [name for name in ("cv2", "scipy", "tqdm") if find_spec(name) is None]
    if missing:
        needed = install_hint("doom,label")
        raise LociError(f"loci data film needs {', '.join(missing)}: {needed}")
    truth = out.with_suffix(".txt")
    check_writable(out)
    check_writable(truth)
    from tqdm import tqdm

    from loci.envs.doom.handheld import Carried, HandHeld
    from loci.envs.doom.level import FloorPlan, LevelCamera

    frames = max(1, round(60 * fps * minutes))
    poses = np.empty((frames, 4))
    bar = tqdm(total=frames, unit="frame", disable=None)
    with LevelCamera(level, _rendered_fov(fov)) as camera, bar, VideoWriter(out, fps) as video:
        walk = HandHeld(FloorPlan(camera.sectors()), camera.pose(), seed, fps)
        held = Carried(0.0, 0.0, 0.0, 0.0, 0.0)
        for number in range(frames):
            before = camera.pose()
            poses[number] = (number / fps, *before)
            video.write(as_held(camera.frame(), held.pitch, held.roll, fov)[None])
            held = walk.next()
            camera.carry(held.forward, held.left, held.turn)
            walk.moved(before, camera.pose())
            bar.update()
    with replacing(truth) as draft:
        np.savetxt(
            draft, poses, fmt="%.4f", header="x y heading, of every frame; map units, degrees"
        )
    print(
        f"{out}: {frames} frames, {minutes:g} minutes of level {level}; label it with --fov {fov:g}"
    )


def _rendered_fov(fov: float) -> float:
    """What the engine renders around a frame, so that the camera can tilt."""
    return math.degrees(2 * math.atan(RENDERED_WIDTH / WIDTH * math.tan(math.radians(fov / 2))))


def as_held(
    picture: UInt8[np.ndarray, "600 800 3"], pitch: float, roll: float, fov: float
) -> UInt8[np.ndarray, "480 640 3"]:
    """The middle of a rendered picture, as a camera sees it that is tilted.

    The engine's own pitch shears the picture; this turns the camera.

    Args:
        picture: of a level camera.
        pitch: of the camera, up, in degrees.
        roll: clockwise, in degrees.
        fov: horizontal field of view of the result in degrees.
    """
    import cv2

    to_rendered = _camera(RENDERED_WIDTH, RENDERED_HEIGHT, fov) @ _tilt(pitch, roll)
    to_rendered = to_rendered @ np.linalg.inv(_camera(WIDTH, HEIGHT, fov))
    return cv2.warpPerspective(
        picture,
        to_rendered,
        (WIDTH, HEIGHT),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _camera(width: int, height: int, fov: float) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of the film's focal length, about the middle of a picture."""
    focal = WIDTH / 2 / math.tan(math.radians(fov / 2))
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def _tilt(pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Rays of the tilted camera in the axes of the level one; x right, y down, z ahead."""
    p, r = math.radians(pitch), math.radians(roll)
    up = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    clockwise = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return up @ clockwise
