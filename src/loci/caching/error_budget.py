"""Where a run stands: noise levels, and the part of the run that a velocity belongs to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from loci.flow import TIMESTEPS, State

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


@dataclass(frozen=True)
class ErrorScale:
    """true error = factor * predicted error ** power, fitted once on runs of training objects."""

    factor: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.factor < math.inf and 0 < self.power < math.inf):
            raise ValueError(f"calibration: expected a factor and a power above 0, got {self}")

    def predicted(self, true: float) -> float:
        """The predicted error to allow when the true one may be `true`."""
        return 0.0 if true <= 0 else (true / self.factor) ** (1 / self.power)

    def true(self, predicted: float) -> float:
        """The true error to expect of a predicted one."""
        return self.factor * predicted**self.power if predicted > 0 else 0.0


def fit_error_scale(
    predicted: Sequence[float], true: Sequence[float], coverage: float = 0.9
) -> ErrorScale:
    """A straight line through log errors, moved up until `coverage` of the runs lie below it.

    So a tolerance is kept by about that share of runs like these, and is no mere average.

    Raises:
        ValueError: with fewer than two runs that have both errors above zero, or errors that are
            all predicted alike.
    """
    pairs = [
        (math.log(p), math.log(t)) for p, t in zip(predicted, true, strict=True) if p > 0 and t > 0
    ]
    if len(pairs) < 2 or len({p for p, _ in pairs}) < 2:
        raise ValueError("calibration needs at least two runs with different errors above zero")
    mean_p, mean_t = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    spread = sum((p - mean_p) ** 2 for p, _ in pairs)
    power = sum((p - mean_p) * (t - mean_t) for p, t in pairs) / spread
    # An error that shrank as the predicted one grew would turn the dial round.
    power = max(power, 0.1)
    above = sorted(t - power * p for p, t in pairs)
    offset = above[min(len(above) - 1, math.ceil(coverage * len(above)) - 1)]
    return ErrorScale(math.exp(offset), power)


class ErrorBudget:
    """What a run may still spend. Made afresh for every run."""

    def __init__(self, tolerance: float, calibration: ErrorScale | None = None) -> None:
        if tolerance < 0:
            raise ValueError(f"an error tolerance cannot be negative, got {tolerance}")
        self.tolerance = (calibration or ErrorScale()).predicted(tolerance)
        self.spent = 0.0

    def room(self, step: int, timesteps: Tensor) -> float:
        """What may be spent on a step: the share of the run up to its end, less what is spent."""
        start, end = level(0, timesteps), level(len(timesteps), timesteps)
        share = (level(step + 1, timesteps) - start) / (end - start)
        return self.tolerance * share - self.spent

    def allows(self, cost: float, step: int, timesteps: Tensor) -> bool:
        """Whether a step that costs so much keeps within its room."""
        return self.tolerance > 0 and cost <= self.room(step, timesteps)

    def spend(self, cost: float) -> None:
        self.spent += cost


class ErrorGrowth:
    """How fast forecasts go wrong: error = rate * product of the distances to the samples used.

    That is the remainder of a polynomial through the samples. The rate is measured whenever a
    step is evaluated that could have been forecast; the larger of the latest two counts.
    """

    def __init__(self) -> None:
        self._rates: list[float] = []

    @property
    def known(self) -> bool:
        return bool(self._rates)

    def measured(self, error: float, positions: Sequence[float], at: float) -> None:
        """Told the relative error of a forecast at a position from samples at `positions`."""
        self._rates = [*self._rates, error / remainder(positions, at)][-2:]

    def expected(self, positions: Sequence[float], at: float) -> float:
        """The relative error to expect of such a forecast; infinite while nothing is known."""
        return max(self._rates) * remainder(positions, at) if self.known else math.inf


def remainder(positions: Sequence[float], at: float) -> float:
    """|product of (at - position)| over the latest two samples, or the only one."""
    return abs(prod(at - position for position in positions[-2:]))


def relative_error(guess: State, truth: State) -> float:
    """rms(guess - truth) / rms(truth) of the tensor where it is largest.

    Every named tensor counts alike, so that a few numbers of layout are not lost among thousands
    of shape.
    """
    return max(
        float((guess[name] - v).square().mean().sqrt() / v.square().mean().sqrt().clamp(min=1e-12))
        for name, v in truth.items()
    )
