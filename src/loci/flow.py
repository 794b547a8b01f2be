"""Time grids, and how loud the noise is at their beginning.

Noise level s runs from 1 (noise) to 0 (data); timestep = 1000 s. SAM 3D Objects counts the other
way: its time t = 1 - s runs from 0 (noise) to 1 (data), and its networks take 1000 t.
"""

import math
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

TIMESTEPS = 1000


def check_temperature(temperature: float) -> None:
    """Raises ValueError for what noise cannot be multiplied by."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: {temperature}, expected a number from 0 on")


def shift(level: Float[Tensor, "*n"], factor: float) -> Float[Tensor, "*n"]:
    """s -> f s / (1 + (f - 1) s): spends more of the grid near noise when factor > 1."""
    return factor * level / (1 + (factor - 1) * level)


def euler_timesteps(steps: int, factor: float, even: bool = False) -> Float[Tensor, "steps"]:
    """Timesteps on the 1000..0 scale for a run of `steps` evaluations.

    As released: equally spaced from 1000 down to 1, then shifted (Infinite-World, 7). With
    `even` the grid is 1000 down to 1000 / steps, so that all steps are equally long before the
    shift: with few steps the released grid spends one of them on the last thousandth. The run
    ends at 0, which is not listed.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    last = TIMESTEPS / steps if even else 1
    levels = torch.linspace(TIMESTEPS, last, steps, dtype=torch.float32) / TIMESTEPS
    return shift(levels, factor) * TIMESTEPS


def rescaled_times(
    steps: int, factor: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "steps+1"]:
    """Times from 0 (noise) to 1 (data), both included: t = u / (1 + (r - 1)(1 - u)), u = i / steps.

    A factor r above 1 spends more of the grid near noise; 1 and 0 leave it even (SAM 3D Objects,
    5). The released grids are in float64 for stage 1 and in float32 for stage 2.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    u = torch.linspace(0, 1, steps + 1, dtype=dtype)
    return u / (1 + (factor - 1) * (1 - u)) if factor else u


def sample_levels(
    batch: int,
    factor: float,
    generator: torch.Generator | None = None,
    logit_mean: float | None = None,
) -> Float[Tensor, "batch"]:
    """Random noise levels for training in (0, 1), shifted.

    Uniform before the shift, or logit-normal with unit deviation when `logit_mean` is given.
    """
    if logit_mean is None:
        level = torch.rand(batch, generator=generator)
    else:
        level = torch.sigmoid(torch.randn(batch, generator=generator) + logit_mean)
    return shift(level, factor)


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


PartialVelocity = Callable[[State, Tensor, Rows], State]
"""(state of all tokens, timestep [batch], rows) -> velocity of those rows."""


def sample(
    velocity: Velocity,
    noise: State,
    timesteps: Float[Tensor, "steps"],
    policy: StepPolicy | None = None,
    on_step: Callable[[int, State], None] | None = None,
    end: float = 0.0,
    partial: PartialVelocity | None = None,
) -> State:
    """Carry noise to data: z <- z - v ds at each timestep, the last step ending at `end`.

    Args:
        velocity: predicts noise - data for a state at a timestep `[batch]` (0..1000).
        noise: the state at the first timestep; float32.
        timesteps: descending, as made by `flow.schedule.euler_timesteps`. In float64 the steps'
            lengths are exact; the velocity gets float32 in any case.
        policy: may propose a velocity instead of an evaluation; evaluates every step by default.
        on_step: called before each step with its index and the state.
        end: the level (timestep / 1000) at which data lies. With 1 and ascending timesteps the
            velocity predicts data - noise, as in SAM 3D Objects.
        partial: evaluates some tokens only. Without it, a policy that chooses tokens is not asked
            to and all are evaluated.
    """
    policy = policy or Always()
    levels = (timesteps / TIMESTEPS).tolist() + [end]
    state = dict(noise)
    batch = next(iter(state.values())).shape[0]
    for step, timestep in enumerate(timesteps):
        if on_step is not None:
            on_step(step, state)
        v = policy.propose(step, timesteps, state)
        if v is None:
            device = next(iter(state.values())).device
            at = timestep.float().to(device).expand(batch)
            v = _evaluated(velocity, partial, policy, step, timesteps, state, at)
            policy.observe(step, timesteps, state, v)
        ds = levels[step] - levels[step + 1]
        state = {name: x - v[name] * ds for name, x in state.items()}
    return state


def _evaluated(
    velocity: Velocity,
    partial: PartialVelocity | None,
    policy: StepPolicy,
    step: int,
    timesteps: Tensor,
    state: State,
    at: Tensor,
) -> State:
    """Of all tokens, or of those that the policy chooses where that can be done."""
    if partial is not None and isinstance(policy, TokenPolicy):
        rows = policy.choose(step, timesteps, state)
        if rows is not None:
            return policy.fill(step, timesteps, state, rows, partial(state, at, rows))
    return velocity(state, at)


def noised(
    data: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"], level: Float[Tensor, "b"]
) -> Float[Tensor, "b *d"]:
    """The point at noise level s in [0, 1] on the straight line from data to noise."""
    s = level.view(-1, *(1 for _ in data.shape[1:]))
    return (1 - s) * data + s * noise


def flow_loss(
    velocity: Float[Tensor, "b *d"], data: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"]
) -> Float[Tensor, "b"]:
    """Mean squared error to noise - data, per sample (Infinite-World, 7)."""
    return (velocity.float() - (noise - data)).pow(2).flatten(1).mean(dim=1)
