"""Flow matching: timestep schedules, guidance, the sampler and the training loss.

Noise level s runs from 1 (noise) to 0 (data) and timestep = 1000 s. SAM 3D Objects counts the
other way: its time t = 1 - s runs from 0 (noise) to 1 (data), and its networks take 1000 t.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

TIMESTEPS = 1000

State = Mapping[str, Tensor]
"""The tensors that are denoised together, by name, for instance `{"latents": ...}`."""
Velocity = Callable[[State, Tensor], State]
"""(state, timestep [batch] in 0..1000) -> velocity of every tensor of the state."""
OnStep = Callable[[int, State], None]
"""Called before each step with its index and the state."""
TokenIndices = Int[Tensor, "k"]
"""Indices of some of the tokens, ascending."""
PartialVelocity = Callable[[State, Tensor, TokenIndices], State]
"""(state of all tokens, timestep [batch], indices) -> velocity of the tokens at these indices."""


# Schedules


def euler_timesteps(steps: int, shift: float, uniform: bool = False) -> Float[Tensor, "steps"]:
    """Descending timesteps (1000..0) of a run with `steps` evaluations, shifted by `shift`.

    As published with Infinite-World (arXiv 2602.02393) they are evenly spaced from 1000 to 1
    before the shift, so the last step covers a thousandth of the range. With `uniform` they end at
    1000 / steps and all steps are equally long before the shift, which is better for few steps.
    The run ends at 0, which is not listed.

    Raises:
        ValueError: with fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    last = TIMESTEPS / steps if uniform else 1
    levels = torch.linspace(TIMESTEPS, last, steps, dtype=torch.float32) / TIMESTEPS
    return shifted(levels, shift) * TIMESTEPS


def log_snr_timesteps(steps: int, low: float, high: float) -> Float[Tensor, "steps"]:
    """Descending timesteps (1000..0): pure noise, then levels evenly spaced in log((1 - s) / s).

    That is half the log of the signal-to-noise ratio, in which DPM-Solver spaces its steps
    (arXiv 2206.00927). The levels are the middles of steps - 1 equal intervals of [low, high], so
    that few steps are not spent at its ends. A model whose first prediction is an average of many
    pictures decides for one of them at high noise, where these steps are smallest.

    Raises:
        ValueError: with fewer than one step, or when low is not below high.
    """
    if steps < 1 or not low < high:
        raise ValueError(f"{steps} steps from {low} to {high}: expected 1 or more, ascending")
    middles = (torch.arange(steps - 1, dtype=torch.float32) + 0.5) / max(steps - 1, 1)
    levels = torch.sigmoid(-(low + (high - low) * middles))
    return torch.cat([torch.ones(1), levels]) * TIMESTEPS


def rescaled_times(
    steps: int, rescale: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "steps+1"]:
    """Times from 0 (noise) to 1 (data), both included: t = u / (1 + (r - 1)(1 - u)), u = i / steps.

    `rescale`, r, above 1 spends more steps near noise; 1 and 0 leave them even. SAM 3D Objects
    computes its times in float64 for stage 1 and in float32 for stage 2.

    Raises:
        ValueError: with fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    u = torch.linspace(0, 1, steps + 1, dtype=dtype)
    return u / (1 + (rescale - 1) * (1 - u)) if rescale else u


def shifted(level: Float[Tensor, "*n"], shift: float) -> Float[Tensor, "*n"]:
    """s -> f s / (1 + (f - 1) s) with f = `shift`: above 1, more of the levels lie near noise."""
    return shift * level / (1 + (shift - 1) * level)


class Stepped(Protocol):
    """Settings of a sampler, a frozen dataclass."""

    @property
    def steps(self) -> int: ...


SteppedT = TypeVar("SteppedT", bound=Stepped)


def shortened(settings: SteppedT, share: float) -> SteppedT:
    """The settings with a share of their steps, at least one."""
    return replace(cast(Any, settings), steps=max(1, round(share * settings.steps)))


# Guidance


def batched_guidance(velocity: Velocity, scale: float) -> Velocity:
    """Classifier-free guidance in one batched evaluation.

    v = v_negative + scale (v_conditional - v_negative).

    Args:
        velocity: takes a state of twice the batch, the conditional half before the negative one.
        scale: 1 gives the conditional velocity.
    """

    def evaluate(state: State, timestep: Tensor) -> State:
        doubled = {name: torch.cat([x, x]) for name, x in state.items()}
        guided = {}
        for name, v in velocity(doubled, torch.cat([timestep, timestep])).items():
            conditional, negative = v.chunk(2)
            guided[name] = negative + scale * (conditional - negative)
        return guided

    return evaluate


def interval_guidance(
    conditional: Velocity,
    unconditional: Velocity,
    strength: float,
    interval: tuple[float, float] = (0.0, 1000.0),
    every: int | None = 1,
) -> Velocity:
    """Classifier-free guidance in two evaluations, within an interval of timesteps.

    v = v_conditional + w (v_conditional - v_unconditional) inside the interval, ends included, and
    v_conditional outside. Two evaluations are cheaper than one batch of both where the
    unconditional network skips cross-attention, as in SAM 3D Objects. The function keeps the last
    difference, so make a new one for every run.

    Args:
        conditional: evaluated at every step.
        unconditional: evaluated at guided steps.
        strength: w; 0 switches guidance off.
        interval: timesteps (0..1000) between which the run is guided.
        every: `unconditional` is evaluated at one guided step in this many, beginning with the
            first; the steps between reuse the last difference. None: at the first one only.
    """
    difference: dict[str, Tensor] = {}
    guided_steps = 0

    def evaluate(state: State, timestep: Tensor) -> State:
        nonlocal guided_steps
        v = conditional(state, timestep)
        if strength <= 0 or not interval[0] <= timestep[0].item() <= interval[1]:
            return v
        guided_steps += 1
        if not renews_guidance(guided_steps - 1, every):
            return {name: x + strength * difference[name] for name, x in v.items()}
        negative = unconditional(state, timestep)
        if every != 1:
            difference.update({name: x - negative[name] for name, x in v.items()})
        return {name: (1 + strength) * x - strength * negative[name] for name, x in v.items()}

    return evaluate


def renews_guidance(guided_step: int, every: int | None) -> bool:
    """Whether the unconditional velocity is evaluated at this guided step, counted from 0."""
    return guided_step == 0 if every is None else guided_step % every == 0


# Step policies: when the sampler may skip an evaluation


class StepPolicy(Protocol):
    """Decides before each step whether the model is evaluated. Made anew for every run."""

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        """A velocity to use instead of evaluating the model, or None to evaluate."""
        ...

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        """Receives the velocity of every evaluation."""
        ...


@runtime_checkable
class TokenPolicy(StepPolicy, Protocol):
    """A step policy that can also ask for some of the tokens to be evaluated.

    `select` and `fill` are called only where the model can evaluate a part of its tokens;
    `observe` then receives the filled velocity. `attends_to_cached` says what the selected tokens
    attend to: the other tokens too, as of their last evaluation, or only each other.
    """

    attends_to_cached: bool

    def select(self, step: int, timesteps: Tensor, state: State) -> TokenIndices | None:
        """The tokens to evaluate, or None for all of them."""
        ...

    def fill(
        self, step: int, timesteps: Tensor, state: State, indices: TokenIndices, part: State
    ) -> State:
        """The velocity of all tokens, given `part`, that of the tokens at `indices`."""
        ...


class EvaluateAll:
    """The policy that skips nothing."""

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        return None


# Sampling


def sample(
    velocity: Velocity,
    noise: State,
    timesteps: Float[Tensor, "steps"],
    *,
    policy: StepPolicy | None = None,
    on_step: OnStep | None = None,
    end: float = 0.0,
    partial: PartialVelocity | None = None,
    order: int = 1,
) -> State:
    """Integrate the flow from noise to data, by Euler steps z <- z - v ds or of second order.

    Args:
        velocity: predicts noise - data.
        noise: the state at the first timestep; float32.
        timesteps: descending, as from `euler_timesteps`. In float64 step lengths are exact;
            `velocity` gets float32 in any case, on the device of `timesteps`: the CPU, so that it
            can be read without waiting.
        policy: may propose a velocity instead of an evaluation; evaluates every step by default.
        on_step: called before each step with its index and the state.
        end: the level (timestep / 1000) of data. With 1 and ascending timesteps `velocity`
            predicts data - noise, as in SAM 3D Objects.
        partial: evaluates some of the tokens. Without it `TokenPolicy.select` is never called.
        order: 1 for Euler steps; 2 for the multistep DPM-Solver++(2M) (arXiv 2211.01095, algorithm
            2) in the data that each velocity implies, without more evaluations; timesteps must
            descend to data at 0.

    Raises:
        ValueError: for another order, or order 2 towards another end.
    """
    if order not in (1, 2) or (order == 2 and end != 0):
        raise ValueError(f"order {order} with end {end}: expected 1, or 2 with end 0")
    policy = policy or EvaluateAll()
    levels = (timesteps / TIMESTEPS).tolist() + [end]
    state = dict(noise)
    before: State | None = None
    for step in range(len(timesteps)):
        if on_step is not None:
            on_step(step, state)
        v = policy.propose(step, timesteps, state)
        if v is None:
            v = _evaluate(velocity, partial, policy, step, timesteps, state)
            policy.observe(step, timesteps, state, v)
        level, after = levels[step], levels[step + 1]
        if order == 2:
            data = {name: x - level * v[name] for name, x in state.items()}
            if before is not None and after > 0 and levels[step - 1] < 1:
                ratio = (_log_snr(after) - _log_snr(level)) / (
                    _log_snr(level) - _log_snr(levels[step - 1])
                )
                v = {n: x - ratio / (2 * level) * (data[n] - before[n]) for n, x in v.items()}
            before = data
        state = {name: x - v[name] * (level - after) for name, x in state.items()}
    return state


def _log_snr(level: float) -> float:
    """Half the log of the signal-to-noise ratio at a noise level in (0, 1)."""
    return math.log((1 - level) / level)


def _evaluate(
    velocity: Velocity,
    partial: PartialVelocity | None,
    policy: StepPolicy,
    step: int,
    timesteps: Tensor,
    state: State,
) -> State:
    """The velocity of all tokens, evaluated in full or for the tokens that the policy selects."""
    first = next(iter(state.values()))
    # It stays on the CPU with the schedule, so that nobody waits for a device to know it.
    timestep = timesteps[step].float().expand(len(first))
    if partial is not None and isinstance(policy, TokenPolicy):
        indices = policy.select(step, timesteps, state)
        if indices is not None:
            return policy.fill(step, timesteps, state, indices, partial(state, timestep, indices))
    return velocity(state, timestep)


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless the scale of the initial noise is finite and at least 0."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: {temperature}, expected a number from 0 on")


# Training


def sample_levels(
    batch: int,
    shift: float,
    generator: torch.Generator | None = None,
    logit_mean: float | None = None,
) -> Float[Tensor, "batch"]:
    """Random noise levels in (0, 1) for training, shifted by `shift`.

    Before the shift they are uniform, or logit-normal with unit deviation if `logit_mean` is given.
    """
    if logit_mean is None:
        level = torch.rand(batch, generator=generator)
    else:
        level = torch.sigmoid(torch.randn(batch, generator=generator) + logit_mean)
    return shifted(level, shift)


def add_noise(
    data: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"], level: Float[Tensor, "b"]
) -> Float[Tensor, "b *d"]:
    """(1 - s) data + s noise at noise level s in [0, 1]."""
    s = level.view(-1, *(1 for _ in data.shape[1:]))
    return (1 - s) * data + s * noise


def flow_loss(
    velocity: Float[Tensor, "b *d"], data: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"]
) -> Float[Tensor, "b"]:
    """Mean squared error to noise - data, per sample."""
    return (velocity.float() - (noise - data)).pow(2).flatten(1).mean(dim=1)
