"""What `loci bench walk-speed` compares, and one walk by all of it, chunk by chunk."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from loci.acceleration.speeds import Speed, exact, fast, faster
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_budget import TokenBudgetConfig
from loci.world.world import WalkState, World

EXACT = "exact"
FEWER = (6, 3, 1)
"""Euler steps, besides those of `fast` and `faster`."""
CACHED = (0.05, 0.1, 0.4)
"""Tolerances of step caching."""
STRIDES = (2, 3)
"""Of step caching without a budget: after the first two steps one in so many is evaluated."""
CARVED = (0.05, 0.1, 0.4)
"""Tolerances of carving."""


class WalkMethod(NamedTuple):
    """One row of the comparison.

    Attributes:
        name: of the row.
        group: what kind of sparing it is.
        speed: at which is walked.
        steps: of a chunk, None for as many as the world takes.
    """

    name: str
    group: str
    speed: Speed
    steps: int | None = None

    def of(self, world: World) -> World:
        """The world, walked this way, with a ledger of its own."""
        other = world.at_speed(self.speed)
        if self.steps is not None:
            sampling = replace(world.config.sampling, steps=self.steps)
            other.config = replace(world.config, sampling=sampling)
        return other


def walk_methods(steps: int) -> list[WalkMethod]:
    """All rows, exact first; names are distinct.

    Args:
        steps: that the world takes; only fewer are tried.
    """
    named = [
        *((f"cache {t:g}", "step caching", StepCacheConfig(tolerance=t)) for t in CACHED),
        *((f"cache 1 in {n}", "step caching", StepCacheConfig(stride=n)) for n in STRIDES),
        *((f"carve {t:g}", "carving", TokenBudgetConfig(tolerance=t)) for t in CARVED),
    ]
    return [
        WalkMethod(EXACT, EXACT, exact()),
        *(WalkMethod(f"{n} steps", "fewer steps", exact(), n) for n in FEWER if n < steps),
        WalkMethod("fast", "fewer steps", fast()),
        WalkMethod("faster", "fewer steps", faster()),
        *(WalkMethod(name, group, Speed(name, walk=walk)) for name, group, walk in named),
    ]


class Walked(NamedTuple):
    """New frames, and how long each chunk took, decoding and remembering included."""

    frames: UInt8[np.ndarray, "n h w 3"]
    seconds: list[float]


def walk_together(
    worlds: Mapping[str, World], state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> dict[str, Walked]:
    """A frame for every action in every world, each going on from its own frames.

    All make the first chunk, then all the second: what else the machine does meanwhile disturbs
    every world alike, so seconds of the same chunk can be compared.

    Args:
        worlds: the same parts at other speeds, by name.
        state: where all begin.
        actions: for all the same.
    """
    states = dict.fromkeys(worlds, state)
    frames: dict[str, list] = {name: [] for name in worlds}
    seconds: dict[str, list[float]] = {name: [] for name in worlds}
    size = next(iter(worlds.values())).chunk
    for at in range(0, len(actions), size):
        following = actions[at + size : at + size + 1]
        ahead = following[0] if len(following) else None
        for name, world in worlds.items():
            began = time.perf_counter()
            made, states[name] = world.step(states[name], actions[at : at + size], ahead)
            seconds[name].append(time.perf_counter() - began)
            frames[name].append(made)
    return {name: Walked(np.concatenate(frames[name]), seconds[name]) for name in worlds}
