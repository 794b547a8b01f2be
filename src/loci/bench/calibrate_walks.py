"""Errors of a walk's chunks at several tolerances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.error_budget import ErrorScale, relative_error
from loci.acceleration.presets import Preset
from loci.acceleration.step_cache import StepCacheConfig
from loci.bench.tolerances import ToleranceError
from loci.data.recordings import load_recordings
from loci.world.world import World

TOLERANCES = (0.02, 0.05, 0.1, 0.2, 0.4)
CHUNKS = 4
"""Chunks of every walk."""


class WalkScript(NamedTuple):
    """The first frame of a recording, and the actions after it."""

    frame: UInt8[np.ndarray, "s s 3"]
    actions: Int[np.ndarray, "n 2"]


def read_walks(folder: Path, count: int) -> list[WalkScript]:
    """The first walks of a folder recorded by loci data doom.

    Raises:
        LociError: when there are fewer, or they are damaged.
    """
    recordings = load_recordings(folder, count)
    return [
        WalkScript(np.asarray(recordings.frames[number, 0]), actions.astype(np.int64))
        for number, actions in enumerate(recordings.actions)
    ]


def walk_errors(
    world: World,
    walks: Sequence[WalkScript],
    calibration: ModelCalibration,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> list[ToleranceError]:
    """The error of every chunk at every tolerance; each chunk starts from the exact walk.

    Args:
        world: with the preset exact.
        walks: a few chunks of each are generated.
        calibration: of the tolerances.
        seed: seed of the noise.
        progress: called after every walk.
    """
    scale = calibration.walk or ErrorScale()
    configs = {t: StepCacheConfig(tolerance=t, calibration=scale) for t in TOLERANCES}
    worlds = {t: world.at_speed(Preset("tolerance", walk=c)) for t, c in configs.items()}
    errors: list[ToleranceError] = []
    for frame, actions in walks:
        state = world.start(frame, seed)
        for at in range(
            0,
            min(CHUNKS * world.chunk_frames, len(actions) - world.chunk_frames),
            world.chunk_frames,
        ):
            ids, next_action = (
                actions[at : at + world.chunk_frames],
                actions[at + world.chunk_frames],
            )
            exact = world.generate_chunk(state, ids, next_action)
            for tolerance, other in worlds.items():
                latents = other.generate_chunk(state, ids, next_action).latents
                error = relative_error({"latents": latents}, {"latents": exact.latents})
                errors.append(ToleranceError(tolerance, error))
            state = exact.state_after()
        progress()
    return errors
