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


def guided_within(
    conditional: Velocity,
    unconditional: Velocity,
    strength: float,
    interval: tuple[float, float] = (0.0, 1000.0),
    every: int = 1,
) -> Velocity:
    """Guidance in two evaluations, in a part of the run only; a function for one run.

    v = (1 + w) v_conditional - w v_unconditional for every named tensor, while the timestep lies
    within the interval, its ends included; the conditional velocity alone elsewhere or when the
    strength is 0 (SAM 3D Objects, 5). Two evaluations and not one batch of both, because the
    unconditional one is much cheaper.

    With `every` above 1 the unconditional one is made at every so many guided evaluations, from
    the first on. In between the difference of both is held: it changes less than either.
    """
    held: dict[str, Tensor] = {}
    count = 0

    def evaluate(state: State, timestep: Tensor) -> State:
        nonlocal count
        wanted = conditional(state, timestep)
        if strength <= 0 or not interval[0] <= timestep[0].item() <= interval[1]:
            return wanted
        count += 1
        if both_made(count - 1, every):
            other = unconditional(state, timestep)
            if every > 1:
                held.update({name: v - other[name] for name, v in wanted.items()})
            return {name: (1 + strength) * v - strength * other[name] for name, v in wanted.items()}
        return {name: v + strength * held[name] for name, v in wanted.items()}

    return evaluate


def both_made(number: int, every: int) -> bool:
    """Whether the guided evaluation of that number, from 0, makes the unconditional one too."""
    return number % every == 0
