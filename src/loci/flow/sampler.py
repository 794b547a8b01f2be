"""The Euler loop of rectified flow."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from loci.flow.guidance import Velocity
from loci.flow.policy import Always, Rows, State, StepPolicy, TokenPolicy
from loci.flow.schedule import TIMESTEPS

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
