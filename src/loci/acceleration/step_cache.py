"""Step caching, within an error budget or at a fixed stride: skipped steps use a forecast of the
velocity."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from loci.acceleration.error_budget import (
    ErrorBudget,
    ErrorGrowth,
    ErrorScale,
    Interval,
    is_guided,
    is_last,
    level,
    relative_error,
)
from loci.acceleration.forecast import Anchored, Forecast, Taylor, VelocityHistory
from loci.flow import State


@dataclass(frozen=True)
class StepCacheConfig:
    """Settings of a `StepCache`.

    Args:
        tolerance: the error that a run may have; 0 evaluates every step.
        calibration: converts the tolerance to a predicted error. None takes the model's own
            (`ModelCalibration`), or none if the model was not calibrated.
        layout: names of the tensors that say where an object stands. They hold few numbers, so
            their forecast is damped.
        beta: weight of the forecast where it is damped; the rest is the latest velocity.
        forecast: linear by default.
        max_extrapolation: no forecast goes further than this many times the distance of the
            latest two samples, beyond which measured errors say little.
    """

    tolerance: float = 0.02
    calibration: ErrorScale | None = None
    layout: tuple[str, ...] = ()
    beta: float = 0.5
    forecast: Forecast | None = None
    max_extrapolation: float = 2.0

    def policy(self, interval: Interval | None = None, *_: Any) -> "StepCache":
        """A policy for one run, guided within the interval."""
        return StepCache(self, interval)


class StepCache:
    """Skips a step if the error budget allows the expected error of its forecast.

    Forecasts extrapolate in the noise level and never across a switch of guidance, where the
    velocity jumps. The first steps on either side of a switch and the last step are evaluated.
    """

    def __init__(self, config: StepCacheConfig, interval: Interval | None = None) -> None:
        self.config, self.interval = config, interval
        self.history = layout_history(config.forecast or Taylor(), config.layout, config.beta)
        self.budget = ErrorBudget(config.tolerance, config.calibration)
        self.growth = ErrorGrowth()
        self.guided: bool | None = None  # at the latest evaluation

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        switched = is_guided(step, timesteps, self.interval) != self.guided
        if switched or not self._is_warm or is_last(step, timesteps):
            return None
        now, end = level(step, timesteps), level(step + 1, timesteps)
        if self._is_too_far(now):
            return None
        cost = self.growth.expected(self.history.positions, now) * abs(end - now)
        if not self.budget.allows(cost, step, timesteps):
            return None
        self.budget.spend(cost)
        return self.history.forecast(now)

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        now, guided = level(step, timesteps), is_guided(step, timesteps, self.interval)
        if guided != self.guided:
            self.history.clear()
        elif self._is_warm:
            error = relative_error(self.history.forecast(now), velocity)
            self.growth.observe(error, self.history.positions, now)
        self.guided = guided
        self.history.add(now, velocity)

    @property
    def _is_warm(self) -> bool:
        return len(self.history) >= min(2, self.history.window)

    def _is_too_far(self, now: float) -> bool:
        if len(self.history) < 2:
            return False
        before, latest = self.history.positions[-2:]
        return abs(now - latest) > self.config.max_extrapolation * abs(latest - before) * (1 + 1e-9)


@dataclass(frozen=True)
class StridedStepCacheConfig:
    """Step caching at a fixed stride; `StepCache` has an error budget instead.

    Args:
        stride: one step in this many is evaluated.
        warmup: evaluations at the start and after a switch of guidance, at most as many as the
            forecast uses.
        order: order of the differences that are extrapolated.
        layout: names of the tensors whose forecast is damped.
        beta: weight of the forecast where it is damped.
        forecast: instead of the extrapolation of `order`.
    """

    stride: int = 3
    warmup: int = 2
    order: int = 1
    layout: tuple[str, ...] = ()
    beta: float = 0.5
    forecast: Forecast | None = None

    def policy(self, interval: Interval | None = None, *_: Any) -> "StridedStepCache":
        """A policy for one run, guided within the interval."""
        return StridedStepCache(self, interval)


class StridedStepCache:
    """Extrapolates in the noise level, never across a switch of guidance.

    The last step is evaluated.
    """

    def __init__(self, config: StridedStepCacheConfig, interval: Interval | None = None) -> None:
        self.config, self.interval = config, interval
        forecast = config.forecast or Taylor(config.order)
        self.history = layout_history(forecast, config.layout, config.beta)
        self.guided: bool | None = None  # at the latest evaluation
        self.skipped = 0

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        switched = is_guided(step, timesteps, self.interval) != self.guided
        warm = len(self.history) >= min(self.config.warmup, self.history.window)
        if switched or not warm or is_last(step, timesteps):
            return None
        if self.skipped >= self.config.stride - 1:
            return None
        self.skipped += 1
        return self.history.forecast(level(step, timesteps))

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        guided = is_guided(step, timesteps, self.interval)
        if guided != self.guided:
            self.history.clear()
        self.guided, self.skipped = guided, 0
        self.history.add(level(step, timesteps), velocity)


def layout_history(forecast: Forecast, layout: tuple[str, ...], beta: float) -> VelocityHistory:
    """A history that damps the forecasts of layout tensors."""
    return VelocityHistory(forecast, dict.fromkeys(layout, Anchored(forecast, beta)))
