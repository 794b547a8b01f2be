"""Forecasts to compare with: scaled Hermite polynomials and dynamic mode decomposition."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import torch
from jaxtyping import Float
from torch import Tensor

from loci.acceleration.forecast import Sample, Taylor, differences


@dataclass(frozen=True)
class Hermite:
    """The Taylor sum with scaled Hermite polynomials s^j H_j(s d) in place of d^j (HiCache).

    d is measured in distances of the latest two samples, so the scale s (`contraction`) does not
    depend on the unit of positions. H_j are the physicists' polynomials. With s below
    1 / sqrt(2) the forecast is pulled towards the latest velocity.
    """

    order: int = 2
    contraction: float = 0.5

    @property
    def window(self) -> int:
        return self.order + 1

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        samples = samples[-self.window :]
        if len(samples) < 2:
            return samples[-1].velocity
        unit = samples[-1].position - samples[-2].position
        scaled = [Sample(position / unit, velocity) for position, velocity in samples]
        distance = at / unit - scaled[-1].position
        factors = differences(scaled)
        powers = hermite_powers(distance, len(factors), self.contraction)
        return sum(
            (f * (p / factorial(j)) for j, (f, p) in enumerate(zip(factors, powers, strict=True))),
            torch.zeros_like(factors[0]),
        )


def hermite_powers(distance: float, count: int, contraction: float) -> list[float]:
    """s^j H_j(s d) for j = 0 .. count - 1."""
    s, values = contraction, [1.0, 2 * contraction * distance]
    while len(values) < count:
        n = len(values) - 1
        values.append(2 * s * distance * values[-1] - 2 * n * values[-2])
    return [s**j * value for j, value in enumerate(values[:count])]


@dataclass(frozen=True)
class DynamicModes:
    """Dynamic mode decomposition: fits dv/ds = L v to the samples and integrates it.

    L lives in the span of the samples and is fitted by least squares to neighbouring pairs,
    (v' - v) / h = L (v' + v) / 2, so spacing need not be even. Growth is limited to a factor of e
    over the span of the samples. With fewer than three samples the forecast is linear.
    """

    snapshots: int = 4
    ridge: float = 1e-6

    @property
    def window(self) -> int:
        return self.snapshots

    def __call__(self, samples: Sequence[Sample], at: float) -> Tensor:
        samples = samples[-self.window :]
        if len(samples) < 3:
            return Taylor(1)(samples, at)
        latest = samples[-1].velocity
        rows = torch.stack([s.velocity.flatten().cpu().double() for s in samples])
        basis, reduced = _span(rows)
        positions = reduced.new_tensor([s.position for s in samples])
        slopes = reduced.diff(dim=0) / positions.diff()[:, None]
        middles = (reduced[1:] + reduced[:-1]) / 2
        gram = middles.T @ middles
        damping = self.ridge * gram.trace() * torch.eye(len(gram)).to(gram)
        operator = torch.linalg.solve(gram + damping, middles.T @ slopes).T
        moved = _integrate(operator, reduced[-1], at - samples[-1].position, positions)
        change = (moved - reduced[-1]) @ basis
        return latest + change.to(latest).view_as(latest)


def _span(rows: Float[Tensor, "m n"]) -> tuple[Float[Tensor, "r n"], Float[Tensor, "m r"]]:
    """An orthonormal basis of the rows' span, and the rows' coordinates in it."""
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    significant = values > 1e-10 * values[-1].clamp(min=1e-300)
    scale = values[significant].sqrt()
    basis = (vectors[:, significant] / scale).T @ rows
    return basis, vectors[:, significant] * scale


def _integrate(operator: Tensor, start: Tensor, distance: float, positions: Tensor) -> Tensor:
    """exp(distance L) start, with the growth of every mode limited."""
    values, modes = torch.linalg.eig(operator)
    limit = 1 / (positions[-1] - positions[0]).abs()
    exponent = values * distance
    growth = exponent.real.clamp(max=float(limit * abs(distance)))
    weights = torch.linalg.lstsq(modes, start.to(modes.dtype)[:, None]).solution[:, 0]
    return (modes @ (torch.exp(torch.complex(growth, exponent.imag)) * weights)).real
