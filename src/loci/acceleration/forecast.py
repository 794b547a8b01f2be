"""Forecasting a velocity from earlier evaluations.

A forecast takes samples (position, velocity), oldest first, and the position of the wanted
velocity. Positions are noise levels in this package and step numbers in the published methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import factorial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from loci.flow import State


class Sample(NamedTuple):
    """A velocity of any shape, evaluated at a position."""

    position: float
    velocity: Tensor


class Forecast(Protocol):
    """Predicts the velocity at a position from at least one sample."""

    @property
    def window(self) -> int:
        """How many of the latest samples are used."""
        ...

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor: ...


@dataclass(frozen=True)
class Taylor:
    """sum_j f_j d^j / j!, with d the distance from the latest sample.

    f_j are backward differences of the latest order + 1 samples (`differences`); fewer samples
    lower the order. Order 0 repeats the latest velocity, order 1 extrapolates linearly.
    """

    order: int = 1

    @property
    def window(self) -> int:
        return self.order + 1

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        distance = at - samples[-1].position
        factors = differences(samples[-self.window :])
        return sum(
            (f * (distance**j / factorial(j)) for j, f in enumerate(factors[1:], start=1)),
            factors[0],
        )


@dataclass(frozen=True)
class Anchored:
    """beta * forecast + (1 - beta) * latest velocity: damps oscillation."""

    forecast: Forecast
    beta: float = 0.5

    @property
    def window(self) -> int:
        return self.forecast.window

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        return torch.lerp(samples[-1].velocity, self.forecast(samples, at), self.beta)


def differences(samples: Sequence[Sample]) -> list[Tensor]:
    """f_0 = latest velocity, f_{j+1} = (f_j - previous f_j) / distance of the two samples."""
    gaps = [after.position - before.position for before, after in pairwise(samples)]
    column = [sample.velocity for sample in samples]
    factors = [column[-1]]
    while gaps:
        column = [(b - a) / gap for (a, b), gap in zip(pairwise(column), gaps, strict=True)]
        factors.append(column[-1])
        gaps = gaps[1:]
    return factors


class VelocityHistory:
    """The latest evaluations of a run, and a forecast for each tensor of the state.

    Args:
        default: the forecast of every tensor that is not named.
        forecasts: the forecasts by name of tensor.
    """

    def __init__(self, default: Forecast, forecasts: Mapping[str, Forecast] | None = None) -> None:
        self.default, self.forecasts = default, dict(forecasts or {})
        self.positions: list[float] = []
        self._velocities: list[State] = []
        self.window = max(f.window for f in (default, *self.forecasts.values()))

    def __len__(self) -> int:
        return len(self.positions)

    def add(self, position: float, velocity: State) -> None:
        self.positions = [*self.positions, position][-self.window :]
        self._velocities = [*self._velocities, velocity][-self.window :]

    def clear(self) -> None:
        self.positions, self._velocities = [], []

    def forecast(self, at: float) -> State:
        """The velocity of every tensor at a position; needs at least one evaluation."""
        return {
            name: self.forecasts.get(name, self.default)(
                [Sample(p, v[name]) for p, v in zip(self.positions, self._velocities, strict=True)],
                at,
            )
            for name in self._velocities[-1]
        }
