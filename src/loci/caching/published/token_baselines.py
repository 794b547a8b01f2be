"""Carving that looks at nothing: what any saliency has to be better than."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from loci.caching.error_budget import is_last
from loci.caching.published.token_carving import STALE, ranged
from loci.flow import Rows, State


def random_drop(
    coords: Int[Tensor, "n 4"], share: float, generator: torch.Generator | None = None
) -> Int[Tensor, "m 4"]:
    """The structure with a random `share` of its voxels gone for good; the order stays."""
    if not 0 <= share < 1:
        raise ValueError(f"a share from 0 to below 1 can be dropped, got {share}")
    kept = torch.randperm(len(coords), generator=generator)[: round((1 - share) * len(coords))]
    return coords[kept.sort().values.to(coords.device)]


class RandomTokens:
    """Every step from the third on evaluates other random tokens, alone; the rest keep theirs.

    The last step is whole. The state has one tensor `[tokens, channels]`.
    """

    alone = True

    def __init__(self, share: float, generator: torch.Generator | None = None) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"a share from 0 to below 1 can be dropped, got {share}")
        self.share, self.generator = share, generator
        self.velocity: State = {}

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        if step < 2 or is_last(step, timesteps):
            return None
        (x,) = state.values()
        kept = torch.randperm(len(x), generator=self.generator)[: round((1 - self.share) * len(x))]
        return kept.sort().values.to(x.device)

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        return {name: self.velocity[name].index_copy(0, rows, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        self.velocity = velocity


class MergedTokens:
    """Every step from the third on evaluates the first token of each block, alone, for all of it.

    The last step is whole. The state has one tensor `[tokens, channels]`.

    Args:
        blocks: a label for every token.
    """

    alone = True

    def __init__(self, blocks: Int[Tensor, "n"]) -> None:
        labels, self.place = torch.unique(blocks, return_inverse=True)
        first = torch.full_like(labels, len(blocks))
        everyone = torch.arange(len(blocks), device=blocks.device)
        self.first = first.scatter_reduce(0, self.place, everyone, "amin")

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        return None if step < 2 or is_last(step, timesteps) else self.first.sort().values

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        order = self.first.argsort().argsort()
        return {name: v[order][self.place] for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        return None


@dataclass(frozen=True)
class Fast3DCacheConfig:
    """Defaults as left in the code of Fast-SAM3D (its section 5; arXiv 2511.22533).

    Args:
        full_until: part of the steps that are evaluated whole.
        scheduled_until: up to here the share of tokens evaluated falls as exp(slope * steps).
        slope: of the logarithm of that share.
        late_share: of the tokens that are carved afterwards.
        correct_every: afterwards one step in so many is evaluated whole.
        acceleration_weight: of the change in a token's score; its size gets the rest.
    """

    full_until: float = 0.2
    scheduled_until: float = 0.75
    slope: float = -0.07
    late_share: float = 0.7
    correct_every: int = 3
    acceleration_weight: float = 0.7


class Fast3DCache:
    """Evaluates the tokens that move and change most; the others keep their velocity.

    The published method carves inside the first stage's network; this one wraps a velocity, so
    that it can be put on any that is evaluated in part. The state has one tensor `[tokens, c]`.
    """

    alone = True

    def __init__(self, config: Fast3DCacheConfig | None = None) -> None:
        self.config = config or Fast3DCacheConfig()
        self.velocities: list[Tensor] = []
        self.streak: Tensor | None = None

    def share(self, step: int, steps: int) -> float:
        """The part of the tokens to evaluate."""
        c = self.config
        anchor = math.ceil(c.full_until * steps)
        if step < anchor or step == steps - 1:
            return 1.0
        if step < c.scheduled_until * steps:
            return math.exp(c.slope * (step - anchor))
        late = step - math.ceil(c.scheduled_until * steps)
        return 1.0 if late % c.correct_every == c.correct_every - 1 else 1 - c.late_share

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        share = self.share(step, len(timesteps))
        if share >= 1 or len(self.velocities) < 2 or is_last(step, timesteps):
            self.streak = None
            return None
        before, latest = self.velocities
        weight = self.config.acceleration_weight
        change = ranged((latest - before).norm(dim=1))
        score = weight * change + (1 - weight) * ranged(latest.norm(dim=1))
        streak = torch.zeros_like(score) if self.streak is None else self.streak
        score = torch.where(streak >= STALE - 1, torch.inf, score)
        rows = score.topk(max(1, round(share * len(score)))).indices.sort().values
        self.streak = (streak + 1).index_fill(0, rows, 0.0)
        return rows

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        return {name: self.velocities[-1].index_copy(0, rows, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (fresh,) = velocity.values()
        self.velocities = [*self.velocities, fresh][-2:]
