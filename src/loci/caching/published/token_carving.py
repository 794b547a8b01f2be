"""Which tokens matter at a step: how large a token's velocity is, how it changes, where it sits."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.caching.error_budget import is_last
from loci.flow import Rows, State

STALE = 5
"""A token carved so many times less one in a row is a candidate no longer (Fast-SAM3D, 2)."""


class Saliency(NamedTuple):
    """Of every token: how it moves, where it sits, and both together."""

    motion: Float[Tensor, "n"]
    spatial: Float[Tensor, "n"]
    final: Float[Tensor, "n"]


def ranged(x: Float[Tensor, "n"], eps: float = 1e-6) -> Float[Tensor, "n"]:
    """From the smallest value at 0 to the largest at (nearly) 1."""
    low, high = x.amin(), x.amax()
    return (x - low) / (high - low + eps)


def released_saliency(
    velocity: Float[Tensor, "n c"],
    before: Float[Tensor, "n c"] | None,
    scores: Float[Tensor, "n"],
    acceleration_weight: float = 0.7,
    spatial_weight: float = 0.3,
) -> Saliency:
    """0.3 place + 0.7 (0.7 change + 0.3 size), each brought to 0..1 (Fast-SAM3D, 2).

    Args:
        velocity: of every token, as last used.
        before: what it was when tokens were last selected; None the first time.
        scores: of every token, as made by `spectral.token_scores`.
        acceleration_weight: of the change; the size gets the rest.
        spatial_weight: of the place; the motion gets the rest.
    """
    size = velocity.norm(dim=-1)
    change = torch.zeros_like(size) if before is None else (velocity - before).norm(dim=-1)
    motion = acceleration_weight * ranged(change) + (1 - acceleration_weight) * ranged(size)
    spatial = ranged(scores)
    return Saliency(motion, spatial, spatial_weight * spatial + (1 - spatial_weight) * motion)


def paper_saliency(
    velocity: Float[Tensor, "n c"],
    before: Float[Tensor, "n c"],
    scores: Float[Tensor, "n"],
    gamma: float = 0.7,
) -> Float[Tensor, "n"]:
    """(size + gamma change) / 2 + place / 2, as printed, with the change of one step."""
    size, change = velocity.norm(dim=-1), (velocity - before).norm(dim=-1)
    return (size + gamma * change) / 2 + scores / 2


class ReleasedSelection:
    """The selection of the published code, with its memory of earlier ones. One for a run.

    The `count` least salient tokens are carved, except those that were carved in each of the
    latest four selections. Changes are measured between selections and not between steps.
    """

    def __init__(self, scores: Float[Tensor, "n"]) -> None:
        self.scores = scores
        self.before: Tensor | None = None
        self.streak: Int[Tensor, "n"] = torch.zeros(
            len(scores), dtype=torch.long, device=scores.device
        )

    def __call__(self, velocity: Float[Tensor, "n c"], count: int) -> Bool[Tensor, "n"]:
        """True for the tokens to evaluate."""
        saliency = released_saliency(velocity, self.before, self.scores)
        candidates = saliency.final.topk(count, largest=False).indices
        carved = torch.zeros_like(self.streak, dtype=torch.bool)
        carved[candidates] = True
        carved &= self.streak < STALE - 1
        self.streak = torch.where(carved, self.streak + 1, 0)
        self.before = velocity
        return ~carved


CARVED_FROM = 2
"""The step from which the published code carves, whatever the warm-up."""


@dataclass(frozen=True)
class CarvingConfig:
    """The defaults are those of the released script (Fast-SAM3D, 2).

    Args:
        mode: `released`, as published code does it; `paper`, as the paper says.
        threshold: accumulated relative change at which the network is evaluated again.
        warmup: first steps that are always evaluated.
        ratio: in mode `released`, the part of the tokens that is carved; in mode `paper`, the
            part that is evaluated between refreshes.
    """

    mode: Literal["released", "paper"] = "released"
    threshold: float = 1.5
    warmup: int = 3
    ratio: float = 0.1


class ReleasedCarving:
    """Mode `released`, to the letter: what it measures is misaligned by up to several steps.

    An evaluation is never whole from step 2 on, unless every candidate is stale; carved tokens
    are absent from the network; the last step may be skipped.
    """

    alone = True

    def __init__(self, config: CarvingConfig, scores: Float[Tensor, "n"]) -> None:
        self.config, self.select = config, ReleasedSelection(scores)
        self.rate: float | None = None
        self.state: Tensor | None = None
        self.earlier: Tensor | None = None  # the state before `state`, not moved on by skips
        self.velocity: Tensor | None = None
        self.offset: Tensor | None = None
        self.error = 0.0

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        (name, x), *_ = state.items()
        if step < self.config.warmup:
            return None
        if self.rate is None or self.state is None or self.velocity is None or self.offset is None:
            return None
        self.error += self.rate * _mean(x - self.state) / (_mean(self.velocity) + 1e-6)
        if self.error >= self.config.threshold:
            return None
        self.state, self.velocity = x, x + self.offset
        return {name: self.velocity}

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        (_, x), *_ = state.items()
        count = int(self.config.ratio * len(x))
        if self.velocity is None or step < CARVED_FROM or not 0 < count < len(x):
            return None
        return self.select(self.velocity, count).nonzero()[:, 0]

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        assert self.velocity is not None
        return {name: self.velocity.index_copy(0, rows, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (name, x), *_ = state.items()
        fresh = velocity[name]
        if self.state is not None and self.earlier is not None and self.velocity is not None:
            now = _mean(fresh - self.velocity) / (_mean(self.state - self.earlier) + 1e-8)
            self.rate = now if self.rate is None else 0.7 * self.rate + 0.3 * now
        self.earlier, self.state = self.state, x
        self.velocity, self.offset, self.error = fresh, fresh - x, 0.0


class PaperCarving:
    """Mode `paper`: between refreshes only the most salient tokens are evaluated.

    The others keep the cached difference of velocity and state, and stay in sight of the network.
    When the expected changes since the last refresh add up to the threshold, all are evaluated.
    This is the reading of the paper under which all that it says can be done at once. The paper
    does not speak of the last step; it is evaluated. Nor of blocks, which a network may hold as
    one token: given their labels, whole blocks are evaluated, by their most salient token.
    """

    alone = False

    def __init__(
        self,
        config: CarvingConfig,
        scores: Float[Tensor, "n"],
        blocks: Int[Tensor, "n"] | None = None,
    ) -> None:
        self.config, self.scores, self.blocks = config, scores, blocks
        self.rate = self.error = 0.0
        self.states: list[Tensor] = []  # of the latest two steps, as are the velocities
        self.velocities: list[Tensor] = []
        self.offset: Tensor | None = None

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        (_, x), *_ = state.items()
        if step < max(self.config.warmup, 2) or is_last(step, timesteps):
            return None
        self.error += self.rate * float((x - self.states[-1]).norm()) / self._speed
        if self.error >= self.config.threshold:
            return None
        before, latest = self.velocities
        salient = paper_saliency(latest, before, self.scores)
        count = max(1, int(self.config.ratio * len(x)))
        return most_salient(salient, count, self.blocks)

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        (name, x), *_ = state.items()
        assert self.offset is not None
        return {name: (x + self.offset).index_copy(0, rows, part[name])}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (name, x), *_ = state.items()
        fresh = velocity[name]
        if self.states:
            moved = float((x - self.states[-1]).norm())
            self.rate = float((fresh - self.velocities[-1]).norm()) / max(moved, 1e-12)
        if self.error >= self.config.threshold:
            self.error = 0.0
        self.states, self.velocities = [*self.states, x][-2:], [*self.velocities, fresh][-2:]
        self.offset = fresh - x

    @property
    def _speed(self) -> float:
        return max(float(self.velocities[-1].norm()), 1e-12)


def most_salient(saliency: Float[Tensor, "n"], count: int, blocks: Int[Tensor, "n"] | None) -> Rows:
    """The `count` most salient tokens, or the fewest whole blocks that hold so many."""
    if blocks is None:
        return saliency.topk(count).indices.sort().values
    names, place, sizes = torch.unique(blocks, return_inverse=True, return_counts=True)
    peak = torch.full((len(names),), -torch.inf, dtype=saliency.dtype, device=saliency.device)
    order = peak.scatter_reduce(0, place, saliency, "amax").argsort(descending=True)
    held = sizes[order].cumsum(0)
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[order] = held - sizes[order] < count
    return chosen[place].nonzero()[:, 0]


def _mean(x: Tensor) -> float:
    return x.abs().mean().item()
