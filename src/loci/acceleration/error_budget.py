"""Error budgets: how much approximation error a run may still spend, and what a skip costs.

Errors are relative to the length of the sampling trajectory: a velocity that is off by 1 % at
every step adds up to an error of 0.01.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from loci.flow import TIMESTEPS, State

Interval = tuple[float, float]
"""Timesteps (0..1000), both ends included, between which a run is guided."""


def level(step: int, timesteps: Tensor) -> float:
    """The timestep in 0..1; for the step after the last, where the run ends.

    A run with ascending timesteps ends at 1, any other at 0.
    """
    if step < len(timesteps):
        return float(timesteps[step]) / TIMESTEPS
    return 1.0 if float(timesteps[-1]) > float(timesteps[0]) else 0.0


def is_last(step: int, timesteps: Tensor) -> bool:
    return step == len(timesteps) - 1


def is_guided(step: int, timesteps: Tensor, interval: Interval | None) -> bool:
    """Whether the step is guided; False without an interval.

    Compared in float32, as in `loci.flow.interval_guidance`.
    """
    if interval is None:
        return False
    return interval[0] <= timesteps[step].float().item() <= interval[1]


@dataclass(frozen=True)
class ErrorScale:
    """true error = factor * predicted error ** power, fitted on runs of training data."""

    factor: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.factor < math.inf and 0 < self.power < math.inf):
            raise ValueError(f"calibration: expected a factor and a power above 0, got {self}")

    def predicted(self, true: float) -> float:
        """The predicted error that corresponds to a true error."""
        return 0.0 if true <= 0 else (true / self.factor) ** (1 / self.power)

    def true(self, predicted: float) -> float:
        """The true error that corresponds to a predicted error."""
        return self.factor * predicted**self.power if predicted > 0 else 0.0


def fit_error_scale(
    predicted: Sequence[float], true: Sequence[float], coverage: float = 0.9
) -> ErrorScale:
    """A line through the log errors, shifted up so that `coverage` of the runs lie below it.

    About that share of similar runs then keeps within a tolerance.

    Raises:
        ValueError: with fewer than two runs whose errors are both above zero, or with equal
            predicted errors.
    """
    pairs = [
        (math.log(p), math.log(t)) for p, t in zip(predicted, true, strict=True) if p > 0 and t > 0
    ]
    if len(pairs) < 2 or len({p for p, _ in pairs}) < 2:
        raise ValueError("calibration needs at least two runs with different errors above zero")
    mean_p, mean_t = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    spread = sum((p - mean_p) ** 2 for p, _ in pairs)
    power = sum((p - mean_p) * (t - mean_t) for p, t in pairs) / spread
    # A negative power would make a larger tolerance stricter.
    power = max(power, 0.1)
    offsets = sorted(t - power * p for p, t in pairs)
    offset = offsets[min(len(offsets) - 1, math.ceil(coverage * len(offsets)) - 1)]
    return ErrorScale(math.exp(offset), power)


class ErrorBudget:
    """The error that one run may spend; it becomes available as the run proceeds.

    Args:
        tolerance: the error that the whole run may have.
        calibration: converts it to a predicted error; without one, it is one.

    Raises:
        ValueError: for a negative tolerance.
    """

    def __init__(self, tolerance: float, calibration: ErrorScale | None = None) -> None:
        if tolerance < 0:
            raise ValueError(f"an error tolerance cannot be negative, got {tolerance}")
        self.tolerance = (calibration or ErrorScale()).predicted(tolerance)
        self.spent = 0.0

    def available(self, step: int, timesteps: Tensor) -> float:
        """The tolerance's share of the run up to the end of this step, less what was spent."""
        start, end = level(0, timesteps), level(len(timesteps), timesteps)
        share = (level(step + 1, timesteps) - start) / (end - start)
        return self.tolerance * share - self.spent

    def allows(self, cost: float, step: int, timesteps: Tensor) -> bool:
        """Whether the error `cost` can be spent at this step."""
        return self.tolerance > 0 and cost <= self.available(step, timesteps)

    def spend(self, cost: float) -> None:
        self.spent += cost


class ErrorGrowth:
    """Expected error of a forecast: rate * product of the distances to the samples it uses.

    This is the remainder of polynomial interpolation. The rate is measured whenever a step that
    could have been forecast is evaluated; the larger of the latest two is used.
    """

    def __init__(self) -> None:
        self._rates: list[float] = []

    def observe(self, error: float, positions: Sequence[float], at: float) -> None:
        """Takes the measured relative error of a forecast at `at` from samples at `positions`."""
        self._rates = [*self._rates, error / remainder(positions, at)][-2:]

    def expected(self, positions: Sequence[float], at: float) -> float:
        """The expected relative error of such a forecast; infinite before the first measurement."""
        return max(self._rates) * remainder(positions, at) if self._rates else math.inf


def remainder(positions: Sequence[float], at: float) -> float:
    """|product of (at - position)| over the latest two positions, or the only one."""
    return abs(prod(at - position for position in positions[-2:]))


def relative_error(approximate: State, exact: State) -> float:
    """rms(approximate - exact) / rms(exact) of the tensor with the largest error.

    Tensors count alike whatever their size: a few numbers of layout as much as thousands of shape.
    """
    return max(
        float(
            (approximate[name] - x).square().mean().sqrt()
            / x.square().mean().sqrt().clamp(min=1e-12)
        )
        for name, x in exact.items()
    )
