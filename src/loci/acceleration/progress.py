"""Where a run stands: noise levels, and the part of the run that a velocity belongs to."""

from torch import Tensor

from loci.flow.schedule import TIMESTEPS

Interval = tuple[float, float]
"""Timesteps (0..1000), both ends included, between which a run is guided."""


def level(step: int, timesteps: Tensor) -> float:
    """The timestep as a level in 0..1; one past the last step is where the run ends.

    A run with rising timesteps ends at 1, any other at 0.
    """
    if step < len(timesteps):
        return float(timesteps[step]) / TIMESTEPS
    return 1.0 if float(timesteps[-1]) > float(timesteps[0]) else 0.0


def is_last(step: int, timesteps: Tensor) -> bool:
    return step == len(timesteps) - 1


def is_guided(step: int, timesteps: Tensor, interval: Interval | None) -> bool:
    """Whether the step lies in the interval; without one the whole run is of a kind.

    Compared in float32, as the velocity function compares it.
    """
    if interval is None:
        return False
    return interval[0] <= timesteps[step].float().item() <= interval[1]
