"""Recordings of a camera that turns in 360-degree photographs: `loci data panoramas`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from loci.data.recolor import Recolor
from loci.data.recordings import Clip, write_recordings
from loci.envs.panorama import LEFT, RIGHT, Panorama
from loci.errors import LociError
from loci.io.images import read_pixels

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FULL_TURN = 48
RECOLORED = 0.5
"""Share of the walks in other colours."""


def panoramas(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    out: Path,
    walks: int = 48,
    frames: int = 768,
    size: int = 128,
    seed: int = 1,
) -> None:
    """Record a camera that turns on the spot in 360-degree photographs.

    Every view of such a walk is a real one, and returns exactly. Half of the walks are mirrored,
    half in other colours; every photograph is in as many walks as any other.

    Args:
        source: a folder of equirectangular photographs, twice as wide as high.
        out: folder for the shards.
        walks: how many.
        frames: frames a walk.
        size: pixels a side of the frames.
        seed: seed of the turns, the cameras and the colours.

    Raises:
        LociError: when there are no such photographs, or `out` holds data already.
    """
    for name, value in (("walks", walks), ("frames", frames), ("size", size)):
        if value < 1:
            raise LociError(f"--{name}: {value}, expected at least 1")
    files = sorted(f for f in source.glob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise LociError(f"{source}: expected 360-degree photographs ({', '.join(SUFFIXES)})")
    info = _panorama(files[0], np.random.default_rng(0), size).info
    clips = _clips(files, walks, frames, size, seed)
    write_recordings(out, clips, info)
    print(f"{out}: {walks} walks of {frames} frames in {len(files)} photographs")


def _clips(files: list[Path], walks: int, frames: int, size: int, seed: int) -> Iterator[Clip]:
    for walk in range(walks):
        rng = np.random.default_rng([seed, walk])
        panorama = _panorama(files[walk % len(files)], rng, size)
        actions = _turns(frames, rng)
        seen, poses = [], []
        views: dict[float, np.ndarray] = {}  # a walk returns to the same 48 headings
        for move, view in actions:
            heading = round(panorama.heading % 360.0, 3)
            if heading not in views:
                views[heading] = panorama.frame()
            seen.append(views[heading])
            poses.append(panorama.pose())
            panorama.step(int(move), int(view))
        clip = np.stack(seen)
        if rng.random() < RECOLORED:
            clip = Recolor(rng)(clip)
        yield Clip(clip, actions, np.array(poses, np.float32))


def _panorama(file: Path, rng: np.random.Generator, size: int) -> Panorama:
    pixels = read_pixels(file)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    heading, pitch = rng.uniform(0, 360), rng.uniform(-8, 8)
    try:
        return Panorama(pixels, size, heading=heading, pitch=pitch)
    except LociError as error:
        raise LociError(f"{file}: {error}") from error


def _turns(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Actions: full turns, turns to and fro, short turns, and standing still."""
    views: list[int] = []
    while len(views) < frames:
        way = LEFT if rng.random() < 0.5 else RIGHT
        chance, few = rng.random(), int(rng.integers(4, 25))
        if chance < 0.35:
            views += [way] * FULL_TURN
        elif chance < 0.6:
            views += [way] * few + [LEFT + RIGHT - way] * few
        elif chance < 0.85:
            views += [way] * few
        else:
            views += [0] * (few // 2)
    actions = np.zeros((frames, 2), np.int64)
    actions[:, 1] = views[:frames]
    return actions
