"""Token reduction to compare with: random, by groups, and Fast3DCache (arXiv 2511.22533)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from loci.acceleration.error_budget import is_last
from loci.acceleration.published.token_carving import MAX_STREAK, normalized
from loci.flow import State, TokenIndices


def random_drop(
    coords: Int[Tensor, "n 4"], share: float, generator: torch.Generator | None = None
) -> Int[Tensor, "m 4"]:
    """Removes a random `share` of the voxels; the others keep their order.

    Raises:
        ValueError: for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"a share from 0 to below 1 can be dropped, got {share}")
    kept = torch.randperm(len(coords), generator=generator)[: round((1 - share) * len(coords))]
    return coords[kept.sort().values.to(coords.device)]


class RandomTokens:
    """Evaluates random tokens from the third step on; the others repeat their latest velocity.

    The tokens that are not evaluated are absent from the network. All tokens are evaluated at the
    last step. The state has one tensor `[tokens, channels]`.

    Raises:
        ValueError: for a share of dropped tokens outside [0, 1).
    """

    attends_to_cached = False

    def __init__(self, share: float, generator: torch.Generator | None = None) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"a share from 0 to below 1 can be dropped, got {share}")
        self.share, self.generator = share, generator
        self.velocity: State = {}

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        if step < 2 or is_last(step, timesteps):
            return None
        (x,) = state.values()
        count = round((1 - self.share) * len(x))
        indices = torch.randperm(len(x), generator=self.generator)[:count]
        return indices.sort().values.to(x.device)

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        return {name: self.velocity[name].index_copy(0, indices, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        self.velocity = velocity


class MergedTokens:
    """Evaluates the first token of each block from the third step on, and gives all its velocity.

    The other tokens are absent from the network. All tokens are evaluated at the last step. The
    state has one tensor `[tokens, channels]`.

    Args:
        group_ids: the group of every token.
    """

    attends_to_cached = False

    def __init__(self, group_ids: Int[Tensor, "n"]) -> None:
        labels, self.index = torch.unique(group_ids, return_inverse=True)
        first = torch.full_like(labels, len(group_ids))
        indices = torch.arange(len(group_ids), device=group_ids.device)
        self.first = first.scatter_reduce(0, self.index, indices, "amin")

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        return None if step < 2 or is_last(step, timesteps) else self.first.sort().values

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        order = self.first.argsort().argsort()
        return {name: v[order][self.index] for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        return None


@dataclass(frozen=True)
class Fast3DCacheConfig:
    """Settings of `Fast3DCache`; the defaults are those in the code of Fast-SAM3D.

    Args:
        full_until: the share of the steps that are evaluated in full.
        scheduled_until: up to here the share of evaluated tokens falls as exp(slope * steps).
        slope: slope of the logarithm of that share.
        late_share: the share of the tokens that is left out afterwards.
        correct_every: afterwards one step in this many is evaluated in full.
        acceleration_weight: weight of the change in a token's score; its size gets the rest.
    """

    full_until: float = 0.2
    scheduled_until: float = 0.75
    slope: float = -0.07
    late_share: float = 0.7
    correct_every: int = 3
    acceleration_weight: float = 0.7


class Fast3DCache:
    """Evaluates the tokens whose velocity is large or changes; the others repeat their latest one.

    The published method selects tokens inside the first stage's network. This one works on
    velocities, so it fits any model. The state has one tensor `[tokens, channels]`.
    """

    attends_to_cached = False

    def __init__(self, config: Fast3DCacheConfig | None = None) -> None:
        self.config = config or Fast3DCacheConfig()
        self.velocities: list[Tensor] = []
        self.streak: Tensor | None = None

    def share(self, step: int, steps: int) -> float:
        """The share of the tokens to evaluate."""
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

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        share = self.share(step, len(timesteps))
        if share >= 1 or len(self.velocities) < 2 or is_last(step, timesteps):
            self.streak = None
            return None
        before, latest = self.velocities
        weight = self.config.acceleration_weight
        change = normalized((latest - before).norm(dim=1))
        score = weight * change + (1 - weight) * normalized(latest.norm(dim=1))
        streak = torch.zeros_like(score) if self.streak is None else self.streak
        score = torch.where(streak >= MAX_STREAK, torch.inf, score)
        indices = score.topk(max(1, round(share * len(score)))).indices.sort().values
        self.streak = (streak + 1).index_fill(0, indices, 0.0)
        return indices

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        return {name: self.velocities[-1].index_copy(0, indices, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (new,) = velocity.values()
        self.velocities = [*self.velocities, new][-2:]
