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
    end: float = 0.0,
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
            v = velocity(state, timestep.float().to(device).expand(batch))
            policy.observe(step, timesteps, state, v)
        ds = levels[step] - levels[step + 1]
        state = {name: x - v[name] * ds for name, x in state.items()}
    return state
