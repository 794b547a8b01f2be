"""Foretelling a velocity from those that were computed before.

A forecast takes samples (position, velocity), oldest first, and a position, and knows neither
what flows nor what a position is: the published methods count steps, ours measure noise levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import factorial
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from loci.flow import State


class Sample(NamedTuple):
    """A velocity of any shape that was computed at a position."""

    position: float
    velocity: Tensor


class Forecast(Protocol):
    """Says what the velocity is at a position, from at least one sample."""

    @property
    def reach(self) -> int:
        """How many of the latest samples are looked at."""
        ...

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor: ...


@dataclass(frozen=True)
class Taylor:
    """sum_j f_j d^j / j! with f_{j+1} = (f_j - previous f_j) / (distance of the two samples).

    Backward differences of the latest order + 1 samples; with fewer samples, of a lower order.
    Order 0 holds the latest velocity, order 1 is the straight line through the latest two.
    """

    order: int = 1

    @property
    def reach(self) -> int:
        return self.order + 1

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        far = at - samples[-1].position
        factors = differences(samples[-self.reach :])
        return sum(
            (f * (far**j / factorial(j)) for j, f in enumerate(factors[1:], start=1)), factors[0]
        )


@dataclass(frozen=True)
class Hermite:
    """The Taylor sum with scaled Hermite polynomials s^j H_j(s d) for the powers d^j (HiCache).

    d is measured in distances of the latest two samples, so that the scale s ("contraction") does
    not depend on the unit of positions. H_j are the physicists' polynomials. With s below
    1 / sqrt(2) the forecast leans towards the latest velocity.
    """

    order: int = 2
    contraction: float = 0.5

    @property
    def reach(self) -> int:
        return self.order + 1

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        samples = samples[-self.reach :]
        if len(samples) < 2:
            return samples[-1].velocity
        unit = samples[-1].position - samples[-2].position
        scaled = [Sample(position / unit, velocity) for position, velocity in samples]
        far = at / unit - scaled[-1].position
        factors = differences(scaled)
        powers = hermite_powers(far, len(factors), self.contraction)
        return sum(
            (f * (p / factorial(j)) for j, (f, p) in enumerate(zip(factors, powers, strict=True))),
            torch.zeros_like(factors[0]),
        )


@dataclass(frozen=True)
class Anchored:
    """beta * forecast + (1 - beta) * latest velocity: damps what swings."""

    forecast: Forecast
    beta: float = 0.5

    @property
    def reach(self) -> int:
        return self.forecast.reach

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        return torch.lerp(samples[-1].velocity, self.forecast(samples, at), self.beta)


@dataclass(frozen=True)
class DynamicModes:
    """Exponentials: the linear flow dv/ds = L v that explains the samples best, followed on.

    L lives in the span of the samples and is found by least squares from neighbouring pairs,
    (v' - v) / h = L (v' + v) / 2, which needs no equal spacing. Growth is limited to a factor of
    e over the span of the samples. With fewer than three samples the straight line is taken.
    """

    snapshots: int = 4
    ridge: float = 1e-6

    @property
    def reach(self) -> int:
        return self.snapshots

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        samples = samples[-self.reach :]
        if len(samples) < 3:
            return Taylor(1)(samples, at)
        latest = samples[-1].velocity
        rows = torch.stack([s.velocity.flatten().cpu().double() for s in samples])
        basis, reduced = _spanned(rows)
        places = reduced.new_tensor([s.position for s in samples])
        slopes = reduced.diff(dim=0) / places.diff()[:, None]
        middles = (reduced[1:] + reduced[:-1]) / 2
        gram = middles.T @ middles
        damping = self.ridge * gram.trace() * torch.eye(len(gram)).to(gram)
        generator = torch.linalg.solve(gram + damping, middles.T @ slopes).T
        moved = _followed(generator, reduced[-1], at - samples[-1].position, places)
        change = (moved - reduced[-1]) @ basis
        return latest + change.to(latest).view_as(latest)


def differences(samples: Sequence[Sample]) -> list[Tensor]:
    """f_0, f_1, ... of `Taylor` at the latest sample, as many as there are samples."""
    gaps = [after.position - before.position for before, after in pairwise(samples)]
    column = [sample.velocity for sample in samples]
    factors = [column[-1]]
    while gaps:
        column = [(b - a) / gap for (a, b), gap in zip(pairwise(column), gaps, strict=True)]
        factors.append(column[-1])
        gaps = gaps[1:]
    return factors


def hermite_powers(far: float, count: int, contraction: float) -> list[float]:
    """s^j H_j(s d) for j = 0 .. count - 1."""
    s, values = contraction, [1.0, 2 * contraction * far]
    while len(values) < count:
        n = len(values) - 1
        values.append(2 * s * far * values[-1] - 2 * n * values[-2])
    return [s**j * value for j, value in enumerate(values[:count])]


def _spanned(
    rows: Float[Tensor, "m n"],
) -> tuple[Float[Tensor, "r n"], Float[Tensor, "m r"]]:
    """An orthonormal basis of the rows' span and the rows in it."""
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    kept = values > 1e-10 * values[-1].clamp(min=1e-300)
    scale = values[kept].sqrt()
    basis = (vectors[:, kept] / scale).T @ rows
    return basis, vectors[:, kept] * scale


def _followed(generator: Tensor, start: Tensor, far: float, places: Tensor) -> Tensor:
    """exp(far L) start, with the growth of every mode limited."""
    values, modes = torch.linalg.eig(generator)
    limit = 1 / (places[-1] - places[0]).abs()
    exponent = values * far
    growth = exponent.real.clamp(max=float(limit * abs(far)))
    weights = torch.linalg.lstsq(modes, start.to(modes.dtype)[:, None]).solution[:, 0]
    return (modes @ (torch.exp(torch.complex(growth, exponent.imag)) * weights)).real


class History:
    """The latest samples of every named tensor, and what each tensor's forecast makes of them.

    Args:
        forecasts: by name of tensor.
        other: the forecast of every tensor that is not named.
    """

    def __init__(self, other: Forecast, forecasts: Mapping[str, Forecast] | None = None) -> None:
        self.other, self.forecasts = other, dict(forecasts or {})
        self.positions: list[float] = []
        self._velocities: list[State] = []
        self.reach = max(f.reach for f in (other, *self.forecasts.values()))

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def latest(self) -> State:
        """The velocity computed last."""
        return self._velocities[-1]

    def add(self, position: float, velocity: State) -> None:
        self.positions = [*self.positions, position][-self.reach :]
        self._velocities = [*self._velocities, velocity][-self.reach :]

    def forget(self) -> None:
        self.positions, self._velocities = [], []

    def forecast(self, at: float) -> State:
        """The velocity of every tensor at a position; at least one was added before."""
        return {
            name: self.forecasts.get(name, self.other)(
                [Sample(p, v[name]) for p, v in zip(self.positions, self._velocities, strict=True)],
                at,
            )
            for name in self.latest
        }
