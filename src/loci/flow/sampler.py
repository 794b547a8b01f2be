"""The Euler loop of rectified flow."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from loci.flow.guidance import Velocity
from loci.flow.policy import Always, State, StepPolicy
from loci.flow.schedule import TIMESTEPS


def sample(
    velocity: Velocity,
    noise: State,
    timesteps: Float[Tensor, "steps"],
    policy: StepPolicy | None = None,
    on_step: Callable[[int, State], None] | None = None,
) -> State:
    """Carry noise to data: z <- z - v ds at each timestep, the last step ending at 0.

    Args:
        velocity: predicts noise - data for a state at a timestep `[batch]` (0..1000).
        noise: the state at the first timestep; float32.
        timesteps: descending, as made by `flow.schedule.euler_timesteps`.
        policy: may propose a velocity instead of an evaluation; evaluates every step by default.
        on_step: called before each step with its index and the state.
    """
    policy = policy or Always()
    levels = (timesteps / TIMESTEPS).tolist() + [0.0]
    state = dict(noise)
    batch = next(iter(state.values())).shape[0]
    for step, timestep in enumerate(timesteps):
        if on_step is not None:
            on_step(step, state)
        v = policy.propose(step, timesteps, state)
        if v is None:
            device = next(iter(state.values())).device
            v = velocity(state, timestep.to(device).expand(batch))
            policy.observe(step, timesteps, state, v)
        ds = levels[step] - levels[step + 1]
        state = {name: x - v[name] * ds for name, x in state.items()}
    return state
