"""Recording walks through Doom maps: `loci data doom`."""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loci.data.recolor import Recolor
from loci.data.recordings import (
    EPISODES_PER_SHARD,
    describe,
    shard_path,
    write_meta,
    write_shard,
)
from loci.envs.doom.engine import STEP, DoomWalker, RenderSettings
from loci.envs.doom.maps import make_map
from loci.envs.doom.walks import KINDS, Wanderer
from loci.errors import LociError

MAX_EPISODES = 1_000_000  # of one seed
Split = Literal["train", "test"]


@dataclass(frozen=True)
class RecordingSpeed:
    """How many frames `record_walks` recorded (not those there before), and in what time."""

    frames: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds


@dataclass(frozen=True)
class _Job:
    """One shard to record."""

    path: Path
    map_seeds: tuple[int, ...]
    first: int
    frames: int
    rendering: RenderSettings
    recolor: bool = False


def record_doom(
    out: Path,
    episodes: int = 360,
    frames: int = 768,
    seed: int = 1,
    split: Split = "train",
    workers: int = os.cpu_count() or 1,
    size: int = 128,
    recolor: bool = False,
) -> None:
    """Record walks through generated Doom maps.

    The same command goes on with a recording that was stopped.

    Args:
        out: folder for the shards.
        episodes: how many walks, each in a map of its own.
        frames: frames a walk.
        seed: seed of the maps and the walks.
        split: maps of "train" and of "test" are never the same, whatever the seeds.
        workers: how many processes.
        size: pixels a side of the frames, 64 or 128.
        recolor: every walk in random colours of its own.
    """
    done = record_walks(out, episodes, frames, seed, split, workers, RenderSettings(size), recolor)
    speed = f"{done.frames_per_second:.0f} frames a second" if done.frames else "all there already"
    print(f"{out}: {episodes} walks of {frames} frames ({speed})")


def record_walks(
    out: Path,
    episodes: int,
    frames: int,
    seed: int,
    split: Split,
    workers: int = 1,
    rendering: RenderSettings | None = None,
    recolor: bool = False,
) -> RecordingSpeed:
    """Record walks in shards; complete shards of the same description are kept.

    Two walks of five wander and three revisit; every other one begins with a full turn.

    Raises:
        LociError: for numbers out of range, when ViZDoom is missing, or when `out` cannot be
            written or holds other data.
    """
    for name, value, most in (
        ("episodes", episodes, MAX_EPISODES),
        ("frames", frames, 1_000_000),
        ("workers", workers, 1024),
    ):
        if not 1 <= value <= most:
            raise LociError(f"{name} {value}, expected 1 to {most}")
    if not 0 <= seed < 2**31:
        raise LociError(f"seed {seed}, expected 0 to {2**31 - 1}")
    rendering = rendering or RenderSettings()
    write_meta(out, _describe(episodes, frames, seed, split, rendering, recolor))
    began = time.perf_counter()
    for draft in out.glob(".shard-*.part"):  # of a run that was killed
        shutil.rmtree(draft, ignore_errors=True)
    jobs = list(_missing_shards(out, episodes, frames, seed, split, rendering, recolor))
    if workers == 1:
        recorded = sum(map(_record_shard, jobs))
    else:
        # Fresh processes: a fork of one that has threads can hang.
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            try:
                recorded = sum(pool.map(_record_shard, jobs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return RecordingSpeed(recorded, time.perf_counter() - began)


def map_seed(seed: int, episode: int, split: Split) -> int:
    """The map of an episode: even seeds are for training, odd ones are held out."""
    return 2 * (seed * MAX_EPISODES + episode) + (split == "test")


def _describe(
    episodes: int, frames: int, seed: int, split: Split, rendering: RenderSettings, recolor: bool
) -> dict[str, object]:
    attributes = {"kinds": "uint8", "map_seeds": "int64"}
    more: dict[str, Any] = {"seed": seed, "split": split, "kinds": list(KINDS)}
    if recolor:
        more["recolour"] = True
    return describe(rendering.info, episodes, frames, walk_attributes=attributes, **more)


def _missing_shards(
    out: Path,
    episodes: int,
    frames: int,
    seed: int,
    split: Split,
    rendering: RenderSettings,
    recolor: bool,
) -> Iterator[_Job]:
    for first in range(0, episodes, EPISODES_PER_SHARD):
        path = shard_path(out, first // EPISODES_PER_SHARD)
        if not path.exists():
            last = min(episodes, first + EPISODES_PER_SHARD)
            seeds = tuple(map_seed(seed, episode, split) for episode in range(first, last))
            yield _Job(path, seeds, first, frames, rendering, recolor)


def _record_shard(job: _Job) -> int:
    count = len(job.map_seeds)
    episodes = range(job.first, job.first + count)
    kinds = np.array([episode % 5 >= 2 for episode in episodes], np.uint8)
    frames = np.empty((count, job.frames, job.rendering.size, job.rendering.size, 3), np.uint8)
    poses = np.empty((count, job.frames, 3), np.float32)
    actions = np.zeros((count, job.frames, 2), np.uint8)
    maps = [make_map(seed) for seed in job.map_seeds]
    with DoomWalker(maps, job.rendering) as walker:
        for k, doom_map in enumerate(maps):
            walker.enter(k)
            spin_first = episodes[k] % 2 == 1
            wanderer = Wanderer(doom_map, KINDS[kinds[k]], doom_map.seed, spin_first=spin_first)
            _record_walk(walker, wanderer, frames[k], poses[k], actions[k])
            if job.recolor:
                frames[k] = Recolor(np.random.default_rng(doom_map.seed))(frames[k])
    seeds = np.array(job.map_seeds, np.int64)
    arrays = {"frames": frames, "poses": poses, "actions": actions}
    write_shard(job.path, {**arrays, "kinds": kinds, "map_seeds": seeds})
    return count * job.frames


def _record_walk(
    walker: DoomWalker,
    wanderer: Wanderer,
    frames: np.ndarray,
    poses: np.ndarray,
    actions: np.ndarray,
) -> None:
    """Walk until the arrays of one episode are full."""
    blocked_steps = 0
    for t in range(len(frames)):
        wanderer.pose = walker.pose()
        frames[t], poses[t] = walker.frame(), wanderer.pose
        move, view = actions[t] = wanderer.action()
        walker.step(move, view)
        here, there = wanderer.pose, walker.pose()
        moved = np.hypot(there[0] - here[0], there[1] - here[1])
        blocked_steps = blocked_steps + 1 if move and moved < STEP / 2 else 0
        if blocked_steps == 2:
            wanderer.pose = there
            wanderer.blocked()
            blocked_steps = 0
