"""Which tokens matter at a step: how large a token's velocity is, how it changes, where it sits."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
