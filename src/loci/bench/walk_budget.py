"""Tolerances of a walk against the true errors of its chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from loci.acceleration.budget import Calibration, relative_error
from loci.acceleration.laws import Laws
from loci.acceleration.speeds import Speed
from loci.acceleration.step_cache import StepCacheConfig
from loci.bench.speed_budget import Pairs
from loci.data.shards import load_shards
from loci.world.world import World

TOLERANCES = (0.02, 0.05, 0.1, 0.2, 0.4)
CHUNKS = 4
"""Of every walk."""


class Recorded(NamedTuple):
    """A frame, and what was pressed after it."""

    frame: UInt8[np.ndarray, "s s 3"]
    actions: Int[np.ndarray, "n 2"]


def recorded(folder: Path, count: int) -> list[Recorded]:
    """The first walks of a data set, as made by loci data doom.

    Raises:
        LociError: when there are fewer, or they are damaged.
    """
    shards = load_shards(folder, count)
    return [
        Recorded(frames[0], actions.astype(np.int64))
        for frames, actions in zip(shards.frames, shards.actions, strict=True)
    ]


def tried_walks(
    world: World,
    walks: list[Recorded],
    laws: Laws,
    seed: int,
    told: Callable[[], None] = lambda: None,
) -> Pairs:
    """The tolerance and the error of every chunk at every tolerance, from where exact came to.

    Args:
        world: at exact.
        walks: through which it goes, for a few chunks each.
        laws: under which the tolerances are tried.
        seed: of the noise.
        told: called after every walk.
    """
    law = laws.walk or Calibration()
    steps = {t: StepCacheConfig(tolerance=t, calibration=law) for t in TOLERANCES}
    spared = {t: world.at_speed(Speed("tried", walk=config)) for t, config in steps.items()}
    pairs: Pairs = []
    for frame, actions in walks:
        state = world.start(frame, seed)
        for at in range(0, min(CHUNKS * world.chunk, len(actions) - world.chunk), world.chunk):
            pressed = actions[at : at + world.chunk], actions[at + world.chunk]
            exact, _, after = world.generate(state, *pressed)
            for tolerance, other in spared.items():
                found = other.generate(state, *pressed)[0]
                error = relative_error({"video": found}, {"video": exact})
                pairs.append((tolerance, error))
            state = after
        told()
    return pairs
