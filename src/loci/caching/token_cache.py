"""Token carving, mode `loci`: every token has a forecast, and an error budget decides who is due.

The state has one tensor `[tokens, channels]`. A token's forecast is the straight line, in the
noise level, through its latest two velocities; how fast such lines went wrong for this token says
what it costs not to evaluate it now.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.caching.error_budget import ErrorBudget, ErrorScale, Interval, is_guided, is_last, level
from loci.flow import Rows, State


@dataclass(frozen=True)
class TokenCacheConfig:
    """How much may go wrong, and when carving is worth its trouble.

    Args:
        tolerance: error a run may spend, as a part of the way it goes; 0 evaluates everything.
        calibration: what the tolerance means; None leaves it to the model that runs (`ModelCalibration`), and
            where that knows nothing, predicted errors count as they are.
        warmup: whole evaluations at the beginning and after guidance switches; at least 2.
        carving_share: of the room a step has, what carving may spend. The rest is for later
            steps to be skipped whole.
        whole_above: when more than this part of the tokens is due, all are evaluated.
        stale: a token is carved at most so many evaluations in a row.
        trust: a token's line goes no further ahead than so many times the distance of the latest
            two velocities it was drawn through.
    """

    tolerance: float = 0.02
    calibration: ErrorScale | None = None
    warmup: int = 2
    carving_share: float = 0.5
    whole_above: float = 0.7
    stale: int = 3
    trust: float = 2.0


class TokenCache:
    """Skips a step whole while the budget allows, else evaluates the tokens that are due.

    Carved tokens stay in sight of the network. A step is evaluated whole when guidance switches,
    at the end, and when there is no room to carve in.

    Args:
        config: the settings.
        interval: the timesteps between which the run is guided.
        blocks: a label for every token; tokens with equal labels are evaluated together, because
            the network holds them as one. By default every token stands for itself.
    """

    alone = False

    def __init__(
        self,
        config: TokenCacheConfig,
        interval: Interval | None = None,
        blocks: Int[Tensor, "n"] | None = None,
    ) -> None:
        if config.warmup < 2:
            raise ValueError(f"a line needs a warm-up of at least 2, got {config.warmup}")
        self.config, self.interval, self.blocks = config, interval, blocks
        self.budget = ErrorBudget(config.tolerance, config.calibration)
        self.lines: TokenLines | None = None
        self.kind: bool | None = None
        self.whole_evaluations = 0
        self.chosen: Rows | None = None

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        if self._must(step, timesteps) or self.lines is None:
            return None
        at = level(step, timesteps)
        cost = self._length(step, timesteps) * float(self.lines.missing(at).square().mean().sqrt())
        if not self.budget.allows(cost, step, timesteps):
            return None
        self.budget.spend(cost)
        return {name: self.lines.at(at) for name in state}

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        self.chosen = None
        if self._must(step, timesteps) or self.lines is None:
            return None
        missing = self.lines.missing(level(step, timesteps))
        missing = torch.where(self.lines.carved < self.config.stale, missing, torch.inf)
        length = self._length(step, timesteps)
        room = max(0.0, self.config.carving_share * self.budget.room(step, timesteps))
        carved = cheapest(missing.square() / len(missing), self.blocks, (room / length) ** 2)
        due = (~carved).nonzero()[:, 0]
        if len(due) > self.config.whole_above * len(missing):
            return None
        self.budget.spend(length * float((missing[carved].square().sum() / len(missing)).sqrt()))
        self.chosen = due
        return due

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        assert self.lines is not None
        forecast = self.lines.at(level(step, timesteps))
        return {name: forecast.index_copy(0, rows, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (fresh,) = velocity.values()
        kind, at = is_guided(step, timesteps, self.interval), level(step, timesteps)
        if kind != self.kind or self.lines is None:
            self.lines = TokenLines(fresh, at, self.config.trust, self.lines)
            self.whole_evaluations = 0
        else:
            self.lines.renew(fresh, at, self.chosen)
        self.whole_evaluations += self.chosen is None
        self.kind, self.chosen = kind, None

    def _must(self, step: int, timesteps: Tensor) -> bool:
        switched = is_guided(step, timesteps, self.interval) != self.kind
        cold = self.whole_evaluations < self.config.warmup
        return switched or cold or is_last(step, timesteps) or self.budget.tolerance <= 0

    def _length(self, step: int, timesteps: Tensor) -> float:
        return abs(level(step + 1, timesteps) - level(step, timesteps))


class TokenLines:
    """For every token the line through its latest two velocities, and how fast it goes wrong.

    Begins with one velocity each. From `before`, the lines of the other kind of guidance, it
    takes over how fast they went wrong until that can be measured anew.
    """

    def __init__(
        self,
        velocity: Float[Tensor, "n c"],
        at: float,
        trust: float = 2.0,
        before: "TokenLines | None" = None,
    ) -> None:
        self.trust = trust
        self.latest, self.slope = velocity, torch.zeros_like(velocity)
        self.place = velocity.new_full((len(velocity),), at)
        self.older = torch.full_like(self.place, torch.nan)
        unknown = torch.full_like(self.place, torch.inf)
        self.rates = before.rates if before else (unknown, unknown)
        self.carved = torch.zeros_like(self.place, dtype=torch.long)

    def at(self, place: float) -> Float[Tensor, "n c"]:
        """Every token's forecast."""
        return self.latest + self.slope * (place - self.place)[:, None]

    def missing(self, place: float) -> Float[Tensor, "n"]:
        """What to expect of every token's forecast to be wrong, in sizes of a usual velocity."""
        rate = torch.maximum(*(torch.where(r.isinf(), -1.0, r) for r in self.rates))
        rate = torch.where(rate < 0, torch.inf, rate)
        ahead, reach = (place - self.place).abs(), self.trust * (self.place - self.older).abs()
        unsafe = self.older.isnan() | (ahead > reach * (1 + 1e-5))
        return torch.where(unsafe, torch.inf, rate * self._remainder(place))

    def renew(self, velocity: Float[Tensor, "n c"], place: float, rows: Rows | None) -> None:
        """New velocities at a place, of all tokens or of `rows`."""
        fresh = torch.ones_like(self.carved, dtype=torch.bool)
        if rows is not None:
            fresh = torch.zeros_like(fresh)
            fresh[rows] = True
        usual = velocity.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
        rate = (velocity - self.at(place)).norm(dim=1) / usual / self._remainder(place)
        measured = fresh & ~self.older.isnan()
        first, second = self.rates
        self.rates = (
            torch.where(measured, rate, first),
            torch.where(measured, torch.where(first.isinf(), rate, first), second),
        )
        step = (place - self.place)[:, None]
        self.slope = torch.where(fresh[:, None], (velocity - self.latest) / step, self.slope)
        self.older = torch.where(fresh, self.place, self.older)
        self.place = torch.where(fresh, place, self.place)
        self.latest = torch.where(fresh[:, None], velocity, self.latest)
        self.carved = torch.where(fresh, 0, self.carved + 1)

    def _remainder(self, place: float) -> Float[Tensor, "n"]:
        return ((place - self.place) * (place - self.older)).abs()


def cheapest(cost: Float[Tensor, "n"], blocks: Int[Tensor, "n"] | None, limit: float) -> Tensor:
    """The most tokens, whole blocks of them and the cheapest first, that cost no more than limit.

    Returns a boolean for every token.
    """
    if blocks is None:
        blocks = torch.arange(len(cost), device=cost.device)
    total = cost.new_zeros(int(blocks.max()) + 1).index_add(0, blocks, cost)
    sorted_cost, order = total.sort()
    taken = torch.zeros_like(total, dtype=torch.bool)
    taken[order] = sorted_cost.cumsum(0) <= limit
    return taken[blocks] & (limit > 0)
