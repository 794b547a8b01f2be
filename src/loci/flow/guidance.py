"""Classifier-free guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from loci.flow.policy import State

Velocity = Callable[[State, Tensor], State]
"""(state, timestep [batch] on the 0..1000 scale) -> velocity of the state."""


def guided(velocity: Velocity, scale: float) -> Velocity:
    """Wrap a velocity that takes [conditional; negative] rows into one that takes plain rows.

    v = v_negative + scale (v_conditional - v_negative), both rows in one batched evaluation
    (Infinite-World, 7).
    """

    def evaluate(state: State, timestep: Tensor) -> State:
        doubled = {name: torch.cat([x, x]) for name, x in state.items()}
        rows = velocity(doubled, torch.cat([timestep, timestep]))
        guided_state = {}
        for name, row in rows.items():
            conditional, negative = row.chunk(2)
            guided_state[name] = negative + scale * (conditional - negative)
        return guided_state

    return evaluate
