"""Modality-aware step caching: most steps take a forecast of every tensor's own kind.

Layout tensors hold few numbers that decide where an object stands; they are treated apart.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from loci.caching.error_budget import (
    ErrorBudget,
    ErrorGrowth,
    ErrorScale,
    Interval,
    is_guided,
    is_last,
    level,
    relative_error,
)
from loci.caching.forecast import Anchored, Forecast, History, Taylor
from loci.flow import State, StepPolicy

Mode = Literal["released", "paper", "loci"]

HARD_WIRED_END = 24
"""From this step on the published code evaluates, however many steps there are."""


@dataclass(frozen=True)
class StepCacheConfig:
    """The defaults are those of the released scripts (Fast-SAM3D, 1).

    Args:
        mode: `released`, as published code does it; `paper`, as the paper says; `loci`, ours.
        stride: one step in so many is evaluated, once `warmup` steps were.
        order: of the differences that are extrapolated.
        beta: weight of the extrapolation where layout is smoothed; the rest is the last evaluated
            velocity. The published code computes a blend and discards it: no part in `released`.
        layout: names of the tensors to smooth.
        forecast: in mode `loci`, instead of the extrapolation of `order`.
        tolerance: in mode `loci`, skips by an error budget instead of a stride.
        calibration: what the tolerance means; None leaves it to the model that runs (`ModelCalibration`), and
            where that knows nothing, predicted errors count as they are.
        trust: with a tolerance, a forecast goes no further ahead than so many times the distance
            of the latest two samples: how it went wrong nearby says little about far away.
    """

    mode: Mode = "loci"
    stride: int = 3
    warmup: int = 2
    order: int = 1
    beta: float = 0.5
    layout: tuple[str, ...] = ()
    forecast: Forecast | None = None
    tolerance: float | None = None
    calibration: ErrorScale | None = None
    trust: float = 2.0


def step_cache(config: StepCacheConfig, interval: Interval | None = None) -> StepPolicy:
    """The policy of a mode, for one run.

    Args:
        config: its settings.
        interval: the timesteps between which the run is guided. Only `loci` asks: a velocity of
            the one kind is never forecast from the other.
    """
    if config.mode != "loci":
        return PublishedStepCache(config)
    if config.tolerance is None:
        return StridedStepCache(config, interval)
    return BudgetedStepCache(config, interval)


class PublishedStepCache:
    """Modes `released` and `paper`: extrapolation in the number of the step.

    `released` smooths nothing, ends in full steps only where there are 25 of them, and takes no
    differences in the last warmup - 1 steps. `paper` smooths layout towards the last evaluation
    and always evaluates the last step.
    """

    def __init__(self, config: StepCacheConfig) -> None:
        self.config = config
        taylor = Taylor(config.order)
        smoothed = Anchored(taylor, config.beta)
        smooth = config.layout if config.mode == "paper" else ()
        self.history = History(taylor, dict.fromkeys(smooth, smoothed))
        self.skipped = 0

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        c = self.config
        due = self.skipped == c.stride - 1 or step < c.warmup
        if c.mode == "released":
            due = due or step >= HARD_WIRED_END
        else:
            due = due or is_last(step, timesteps)
        if due or not len(self.history):
            return None
        self.skipped += 1
        return self.history.forecast(step)

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        c = self.config
        if c.mode == "released" and step >= len(timesteps) - c.warmup + 1:
            self.history.forget()
        self.history.add(step, velocity)
        self.skipped = 0


class StridedStepCache:
    """Mode `loci` with a stride: extrapolation in the noise level, within one kind of guidance.

    The first two steps of every kind and the last of all are evaluated.
    """

    def __init__(self, config: StepCacheConfig, interval: Interval | None) -> None:
        self.config, self.interval = config, interval
        self.history, self.skipped = self_forced(config), 0
        self.kind: bool | None = None

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        if self._must(step, timesteps) or self.skipped >= self.config.stride - 1:
            return None
        self.skipped += 1
        return self.history.forecast(level(step, timesteps))

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        kind = is_guided(step, timesteps, self.interval)
        if kind != self.kind:
            self.history.forget()
        self.kind, self.skipped = kind, 0
        self.history.add(level(step, timesteps), velocity)

    def _must(self, step: int, timesteps: Tensor) -> bool:
        """Whether there is no choice: too little is known, or it is the end."""
        switched = is_guided(step, timesteps, self.interval) != self.kind
        warm = len(self.history) >= min(self.config.warmup, self.history.reach)
        return switched or not warm or is_last(step, timesteps)


class BudgetedStepCache(StridedStepCache):
    """Mode `loci` with a tolerance: a step is skipped while the error budget allows it.

    What a skipped step costs is expected from how wrong forecasts were when a step was evaluated
    that could have been forecast. With a tolerance of 0 every step is evaluated.
    """

    def __init__(self, config: StepCacheConfig, interval: Interval | None) -> None:
        super().__init__(config, interval)
        self.budget = ErrorBudget(config.tolerance or 0.0, config.calibration)
        self.growth = ErrorGrowth()

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        if self._must(step, timesteps):
            return None
        at, after = level(step, timesteps), level(step + 1, timesteps)
        if self._too_far(at):
            return None
        cost = self.growth.expected(self.history.positions, at) * abs(after - at)
        if not self.budget.allows(cost, step, timesteps):
            return None
        self.budget.spend(cost)
        return self.history.forecast(at)

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        at, before = level(step, timesteps), self.history.positions
        same = is_guided(step, timesteps, self.interval) == self.kind
        if same and len(before) >= min(2, self.history.reach):
            error = relative_error(self.history.forecast(at), velocity)
            self.growth.measured(error, before, at)
        super().observe(step, timesteps, state, velocity)

    def _too_far(self, at: float) -> bool:
        if len(self.history) < 2:
            return False
        before, latest = self.history.positions[-2:]
        return abs(at - latest) > self.config.trust * abs(latest - before) * (1 + 1e-9)


def self_forced(config: StepCacheConfig) -> History:
    """The forecasts of mode `loci`."""
    forecast = config.forecast or Taylor(config.order)
    return History(forecast, dict.fromkeys(config.layout, Anchored(forecast, config.beta)))
