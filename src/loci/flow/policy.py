"""Step policies: who decides whether a velocity is computed or predicted."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

State = Mapping[str, Tensor]
"""Named tensors that flow together, for instance `{"video": ...}`."""


class StepPolicy(Protocol):
    """Asked before each step, told after each evaluation. Made afresh for every run."""

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        """A velocity to use instead of evaluating the model, or None to evaluate."""
        ...

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        """Told what an evaluation returned."""
        ...


class Always:
    """Evaluate every step."""

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        return None
