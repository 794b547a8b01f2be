"""Token carving of Fast-SAM3D (arXiv 2602.05293): its released code and its paper.

The state has one tensor `[tokens, channels]`. Tokens are ranked by the size and change of their
velocity and by the detail of the object around them.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.acceleration.error_budget import Interval, is_last
from loci.flow import State, TokenIndices

MAX_STREAK = 4
"""A token is left out of at most this many selections in a row."""


class Saliency(NamedTuple):
    """Scores of every token: by its velocity, by its surroundings, and both together."""

    motion: Float[Tensor, "n"]
    spatial: Float[Tensor, "n"]
    final: Float[Tensor, "n"]


def normalized(x: Float[Tensor, "n"], eps: float = 1e-6) -> Float[Tensor, "n"]:
    """Scaled so that the smallest value is 0 and the largest nearly 1."""
    low, high = x.amin(), x.amax()
    return (x - low) / (high - low + eps)


def released_saliency(
    velocity: Float[Tensor, "n c"],
    before: Float[Tensor, "n c"] | None,
    scores: Float[Tensor, "n"],
    acceleration_weight: float = 0.7,
    spatial_weight: float = 0.3,
) -> Saliency:
    """0.3 score + 0.7 (0.7 change + 0.3 size), each scaled to 0..1, as in the released code.

    Args:
        velocity: the latest one of every token.
        before: the one at the previous selection; None at the first.
        scores: the score of every token, from `loci.acceleration.spectral.token_scores`.
        acceleration_weight: weight of the change of velocity; its size gets the rest.
        spatial_weight: weight of the score; the velocity gets the rest.
    """
    size = velocity.norm(dim=-1)
    change = torch.zeros_like(size) if before is None else (velocity - before).norm(dim=-1)
    motion = acceleration_weight * normalized(change) + (1 - acceleration_weight) * normalized(size)
    spatial = normalized(scores)
    return Saliency(motion, spatial, spatial_weight * spatial + (1 - spatial_weight) * motion)


def paper_saliency(
    velocity: Float[Tensor, "n c"],
    before: Float[Tensor, "n c"],
    scores: Float[Tensor, "n"],
    gamma: float = 0.7,
) -> Float[Tensor, "n"]:
    """(size + gamma change) / 2 + score / 2 as in the paper, with the change over one step."""
    size, change = velocity.norm(dim=-1), (velocity - before).norm(dim=-1)
    return (size + gamma * change) / 2 + scores / 2


class ReleasedSelection:
    """The selection of the released code, with its state; make one for every run.

    The `count` least salient tokens are left out, except those that were left out of each of the
    latest four selections. Changes are measured between selections, not between steps.
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
        carved &= self.streak < MAX_STREAK
        self.streak = torch.where(carved, self.streak + 1, 0)
        self.before = velocity
        return ~carved


FIRST_CARVED_STEP = 2
"""The first carved step in the released code, whatever the warm-up."""


@dataclass(frozen=True)
class CarvingConfig:
    """Settings of both variants; the defaults are those of the released script.

    Args:
        mode: `released` or `paper`.
        threshold: accumulated relative change at which the network is evaluated again.
        warmup: first steps that are always evaluated.
        ratio: `released`: the share of the tokens that is left out; `paper`: the share that is
            evaluated between renewals.
    """

    mode: Literal["released", "paper"] = "released"
    threshold: float = 1.5
    warmup: int = 3
    ratio: float = 0.1

    def policy(
        self,
        interval: Interval | None,
        scores: Float[Tensor, "n"],
        group_ids: Int[Tensor, "n"] | None = None,
    ) -> "ReleasedCarving | PaperCarving":
        """A policy for one run; the interval is not used."""
        if self.mode == "released":
            return ReleasedCarving(self, scores)
        return PaperCarving(self, scores, group_ids)


class ReleasedCarving:
    """The released code, including its changes measured between steps that do not belong together.

    From step 2 on an evaluation is partial unless every candidate was left out too often. Tokens
    that are left out are absent from the network. The last step may be skipped.
    """

    attends_to_cached = False

    def __init__(self, config: CarvingConfig, scores: Float[Tensor, "n"]) -> None:
        self.config, self.selection = config, ReleasedSelection(scores)
        self.rate: float | None = None
        self.state: Tensor | None = None
        self.earlier: Tensor | None = None  # the state before `state`; skips do not change it
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

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        (_, x), *_ = state.items()
        count = int(self.config.ratio * len(x))
        if self.velocity is None or step < FIRST_CARVED_STEP or not 0 < count < len(x):
            return None
        return self.selection(self.velocity, count).nonzero()[:, 0]

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        assert self.velocity is not None
        return {name: self.velocity.index_copy(0, indices, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (name, x), *_ = state.items()
        new = velocity[name]
        if self.state is not None and self.earlier is not None and self.velocity is not None:
            now = _mean(new - self.velocity) / (_mean(self.state - self.earlier) + 1e-8)
            self.rate = now if self.rate is None else 0.7 * self.rate + 0.3 * now
        self.earlier, self.state = self.state, x
        self.velocity, self.offset, self.error = new, new - x, 0.0


class PaperCarving:
    """The paper: between renewals only the most salient tokens are evaluated.

    The others keep the difference of velocity and state, and the network still attends to them.
    When the expected changes since the last renewal add up to the threshold, all tokens are
    evaluated. This is the only reading under which all statements of the paper hold together. Two
    things it leaves open: the last step is evaluated here, and tokens that the network merges into
    groups are evaluated whole, ranked by their most salient token.
    """

    attends_to_cached = True

    def __init__(
        self,
        config: CarvingConfig,
        scores: Float[Tensor, "n"],
        group_ids: Int[Tensor, "n"] | None = None,
    ) -> None:
        self.config, self.scores, self.group_ids = config, scores, group_ids
        self.rate = self.error = 0.0
        self.states: list[Tensor] = []  # of the latest two steps, as are the velocities
        self.velocities: list[Tensor] = []
        self.offset: Tensor | None = None

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        (_, x), *_ = state.items()
        if step < max(self.config.warmup, 2) or is_last(step, timesteps):
            return None
        self.error += self.rate * float((x - self.states[-1]).norm()) / self._speed
        if self.error >= self.config.threshold:
            return None
        before, latest = self.velocities
        salient = paper_saliency(latest, before, self.scores)
        count = max(1, int(self.config.ratio * len(x)))
        return most_salient(salient, count, self.group_ids)

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        (name, x), *_ = state.items()
        assert self.offset is not None
        return {name: (x + self.offset).index_copy(0, indices, part[name])}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        (name, x), *_ = state.items()
        new = velocity[name]
        if self.states:
            moved = float((x - self.states[-1]).norm())
            self.rate = float((new - self.velocities[-1]).norm()) / max(moved, 1e-12)
        if self.error >= self.config.threshold:
            self.error = 0.0
        self.states, self.velocities = [*self.states, x][-2:], [*self.velocities, new][-2:]
        self.offset = new - x

    @property
    def _speed(self) -> float:
        return max(float(self.velocities[-1].norm()), 1e-12)


def most_salient(
    saliency: Float[Tensor, "n"], count: int, group_ids: Int[Tensor, "n"] | None
) -> TokenIndices:
    """The `count` most salient tokens, or the fewest whole groups with at least as many."""
    if group_ids is None:
        return saliency.topk(count).indices.sort().values
    names, index, sizes = torch.unique(group_ids, return_inverse=True, return_counts=True)
    peak = torch.full((len(names),), -torch.inf, dtype=saliency.dtype, device=saliency.device)
    order = peak.scatter_reduce(0, index, saliency, "amax").argsort(descending=True)
    total = sizes[order].cumsum(0)
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[order] = total - sizes[order] < count
    return chosen[index].nonzero()[:, 0]


def _mean(x: Tensor) -> float:
    return x.abs().mean().item()
