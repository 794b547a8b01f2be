"""Step policies: who decides whether a velocity is computed or predicted, and for which tokens."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

State = Mapping[str, Tensor]
"""Named tensors that flow together, for instance `{"video": ...}`."""


Rows = Int[Tensor, "k"]
"""Tokens by their row, ascending."""


class StepPolicy(Protocol):
    """Asked before each step, told after each evaluation. Made afresh for every run."""

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        """A velocity to use instead of evaluating the model, or None to evaluate."""
        ...

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        """Told what an evaluation returned."""
        ...


@runtime_checkable
class TokenPolicy(StepPolicy, Protocol):
    """A step policy that can also have a part of the tokens evaluated.

    The two further questions are asked only where the model can be evaluated in part; `observe`
    is then told the filled velocity. `alone` says how the chosen tokens are evaluated: as if there
    were no others, or with the others still looked at, as they were at their last evaluation.
    """

    alone: bool

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        """The tokens to evaluate, or None for all of them."""
        ...

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        """A velocity of every token, from the `part` that was evaluated, that of `rows`."""
        ...


class Always:
    """Evaluate every step."""

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        return None
