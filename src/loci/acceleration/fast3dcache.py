"""Fast3DCache: fewer tokens every step as a shape settles, by a fixed schedule."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from loci.acceleration.progress import is_last
from loci.acceleration.saliency import STALE, ranged
from loci.flow.policy import Rows, State


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
