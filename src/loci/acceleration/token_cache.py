"""Token caching within an error budget: evaluates only the tokens whose forecast is too uncertain.

The state has one tensor `[tokens, channels]`. Each token's velocity is extrapolated linearly, in
the noise level, from its latest two evaluations; how wrong such forecasts were for this token
before tells how wrong the next one may be.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.acceleration.error_budget import (
    ErrorBudget,
    ErrorScale,
    Interval,
    is_guided,
    is_last,
    level,
)
from loci.flow import State, TokenIndices


@dataclass(frozen=True)
class TokenCacheConfig:
    """Settings of a `TokenCache`.

    Args:
        tolerance: the error that a run may have; 0 evaluates everything.
        calibration: converts the tolerance to a predicted error. None takes the model's own
            (`ModelCalibration`), or none if the model was not calibrated.
        warmup: full evaluations at the start and after a switch of guidance; at least 2.
        carving_share: the share of the available budget that partial evaluations may spend; the
            rest is left for skipping later steps entirely.
        full_above: if more than this share of the tokens is due, all of them are evaluated.
        max_skips: evaluations in a row that a token may be left out of.
        max_extrapolation: no forecast goes further than this many times the distance of the
            token's latest two evaluations.
    """

    tolerance: float = 0.02
    calibration: ErrorScale | None = None
    warmup: int = 2
    carving_share: float = 0.5
    full_above: float = 0.7
    max_skips: int = 3
    max_extrapolation: float = 2.0

    def policy(
        self,
        interval: Interval | None = None,
        scores: Tensor | None = None,
        group_ids: Int[Tensor, "n"] | None = None,
    ) -> "TokenCache":
        """A policy for one run; arguments as for `TokenCache`, `scores` is not used."""
        return TokenCache(self, interval, group_ids)


class TokenCache:
    """Skips a step if the budget allows, otherwise evaluates the tokens that are due.

    The network still attends to the tokens that are not evaluated, as they were when last
    evaluated. All tokens are evaluated at the start, after a switch of guidance and at the last
    step.

    Args:
        config: the settings.
        interval: the timesteps between which the run is guided.
        group_ids: the group of every token; tokens with equal ids are evaluated together because
            the network merges them. By default every token is a group of its own.

    Raises:
        ValueError: for a warm-up below 2.
    """

    attends_to_cached = True

    def __init__(
        self,
        config: TokenCacheConfig,
        interval: Interval | None = None,
        group_ids: Int[Tensor, "n"] | None = None,
    ) -> None:
        if config.warmup < 2:
            raise ValueError(f"warmup must be at least 2 evaluations, got {config.warmup}")
        self.config, self.interval, self.group_ids = config, interval, group_ids
        self.budget = ErrorBudget(config.tolerance, config.calibration)
        self.forecasts: TokenForecasts | None = None
        self.guided: bool | None = None  # at the latest evaluation
        self.full_evaluations = 0  # since guidance last switched
        self.selected: TokenIndices | None = None

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        if self._evaluates_all(step, timesteps) or self.forecasts is None:
            return None
        now = level(step, timesteps)
        error = float(self.forecasts.expected_error(now).square().mean().sqrt())
        cost = _length(step, timesteps) * error
        if not self.budget.allows(cost, step, timesteps):
            return None
        self.budget.spend(cost)
        return {name: self.forecasts.velocity(now) for name in state}

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        self.selected = None
        if self._evaluates_all(step, timesteps) or self.forecasts is None:
            return None
        error = self.forecasts.expected_error(level(step, timesteps))
        error = torch.where(self.forecasts.skips < self.config.max_skips, error, torch.inf)
        length, count = _length(step, timesteps), len(error)
        available = self.config.carving_share * self.budget.available(step, timesteps)
        limit = (max(0.0, available) / length) ** 2
        skipped = cheapest_tokens(error.square() / count, self.group_ids, limit)
        due = (~skipped).nonzero()[:, 0]
        if len(due) > self.config.full_above * count:
            return None
        self.budget.spend(length * float((error[skipped].square().sum() / count).sqrt()))
        self.selected = due
        return due

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        assert self.forecasts is not None
        forecast = self.forecasts.velocity(level(step, timesteps))
        return {name: forecast.index_copy(0, indices, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (v,) = velocity.values()
        guided, now = is_guided(step, timesteps, self.interval), level(step, timesteps)
        if guided != self.guided or self.forecasts is None:
            self.forecasts = TokenForecasts(v, now, self.config.max_extrapolation, self.forecasts)
            self.full_evaluations = 0
        else:
            self.forecasts.update(v, now, self.selected)
        self.full_evaluations += self.selected is None
        self.guided, self.selected = guided, None

    def _evaluates_all(self, step: int, timesteps: Tensor) -> bool:
        switched = is_guided(step, timesteps, self.interval) != self.guided
        cold = self.full_evaluations < self.config.warmup
        return switched or cold or is_last(step, timesteps) or self.budget.tolerance <= 0


def _length(step: int, timesteps: Tensor) -> float:
    return abs(level(step + 1, timesteps) - level(step, timesteps))


class TokenForecasts:
    """A linear forecast for every token, with an estimate of its error.

    Args:
        velocity: the first evaluation of every token.
        position: its noise level.
        max_extrapolation: see `TokenCacheConfig`.
        previous: forecasts from before guidance switched, whose error rates are used until new
            ones are measured.
    """

    def __init__(
        self,
        velocity: Float[Tensor, "n c"],
        position: float,
        max_extrapolation: float = 2.0,
        previous: "TokenForecasts | None" = None,
    ) -> None:
        self.max_extrapolation = max_extrapolation
        self.latest, self.slope = velocity, torch.zeros_like(velocity)
        self.position = velocity.new_full((len(velocity),), position)
        self.older = torch.full_like(self.position, torch.nan)
        unknown = torch.full_like(self.position, torch.inf)
        self.rates = previous.rates if previous else (unknown, unknown)  # the latest two
        self.skips = torch.zeros_like(self.position, dtype=torch.long)

    def velocity(self, position: float) -> Float[Tensor, "n c"]:
        """The forecast of every token."""
        return self.latest + self.slope * (position - self.position)[:, None]

    def expected_error(self, position: float) -> Float[Tensor, "n"]:
        """The expected error of every forecast, relative to the rms norm of all velocities.

        Infinite where nothing was measured or the forecast would reach too far.
        """
        rate = torch.maximum(*(torch.where(r.isinf(), -1.0, r) for r in self.rates))
        rate = torch.where(rate < 0, torch.inf, rate)
        distance = (position - self.position).abs()
        reach = self.max_extrapolation * (self.position - self.older).abs()
        unsafe = self.older.isnan() | (distance > reach * (1 + 1e-5))
        return torch.where(unsafe, torch.inf, rate * self._remainder(position))

    def update(
        self, velocity: Float[Tensor, "n c"], position: float, indices: TokenIndices | None
    ) -> None:
        """Takes new velocities at a position, of all tokens or of those at `indices`."""
        new = torch.ones_like(self.skips, dtype=torch.bool)
        if indices is not None:
            new = torch.zeros_like(new)
            new[indices] = True
        norm = velocity.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
        error = (velocity - self.velocity(position)).norm(dim=1) / norm
        rate, measured = error / self._remainder(position), new & ~self.older.isnan()
        first, second = self.rates
        self.rates = (
            torch.where(measured, rate, first),
            torch.where(measured, torch.where(first.isinf(), rate, first), second),
        )
        distance = (position - self.position)[:, None]
        self.slope = torch.where(new[:, None], (velocity - self.latest) / distance, self.slope)
        self.older = torch.where(new, self.position, self.older)
        self.position = torch.where(new, position, self.position)
        self.latest = torch.where(new[:, None], velocity, self.latest)
        self.skips = torch.where(new, 0, self.skips + 1)

    def _remainder(self, position: float) -> Float[Tensor, "n"]:
        return ((position - self.position) * (position - self.older)).abs()


def cheapest_tokens(
    cost: Float[Tensor, "n"], group_ids: Int[Tensor, "n"] | None, limit: float
) -> Bool[Tensor, "n"]:
    """As many whole groups as possible, cheapest first, with a total cost of at most `limit`."""
    if group_ids is None:
        group_ids = torch.arange(len(cost), device=cost.device)
    total = cost.new_zeros(int(group_ids.max()) + 1).index_add(0, group_ids, cost)
    sorted_cost, order = total.sort()
    taken = torch.zeros_like(total, dtype=torch.bool)
    taken[order] = sorted_cost.cumsum(0) <= limit
    return taken[group_ids] & (limit > 0)
