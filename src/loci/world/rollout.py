"""One chunk of a walk: from what is remembered and what is pressed to new latents."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loci.flow.guidance import guided
from loci.flow.policy import State, StepPolicy
from loci.flow.sampler import sample
from loci.flow.schedule import euler_timesteps
from loci.world.context import Actions, Address, Context, Prompt
from loci.world.transformer import WorldTransformer


@dataclass(frozen=True)
class SamplingConfig:
    """The released values are 30 steps, shift 7, guidance 5, on the released grid (7)."""

    steps: int = 30
    shift: float = 7.0
    even: bool = False
    guidance: float = 5.0


def chunk_context(
    model: WorldTransformer,
    memory: Float[Tensor, "1 c k h w"] | None,
    local: Float[Tensor, "1 16 1 h w"],
    actions: Actions,
    prompt: Prompt | None,
    address: Address | None,
) -> Context:
    """The chunk's conditioning, made once: one row, or one for each row of the prompt."""
    rows = 1 if prompt is None else prompt.states.shape[0]
    if memory is not None:
        memory = memory.expand(rows, -1, -1, -1, -1)
    return model.context(memory, local.expand(rows, -1, -1, -1, -1), actions, prompt, address)


def sample_chunk(
    model: WorldTransformer,
    noise: Float[Tensor, "1 16 t h w"],
    context: Context,
    sampling: SamplingConfig,
    policy: StepPolicy | None = None,
) -> Float[Tensor, "1 16 t h w"]:
    """Latents of a chunk from its noise; guided where the context has a negative row.

    A policy is for this chunk alone: what it knows of one velocity says nothing of the next
    chunk's.
    """

    def velocity(state: State, timestep: Tensor) -> State:
        return {"video": model.velocity(state["video"], timestep, context)}

    rows = context.target_offset.shape[0]
    step = guided(velocity, sampling.guidance) if rows > 1 else velocity
    grid = euler_timesteps(sampling.steps, sampling.shift, sampling.even)
    return sample(step, {"video": noise}, grid, policy)["video"]


def chunk_noise(
    seed: int, chunk: int, shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "1 16 t h w"]:
    """Standard normal noise that depends on the walk's seed and the chunk's number alone.

    Drawn on the CPU, so that a walk is the same on every device up to rounding.
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + chunk * 0xBF58476D1CE4E5B9 + 1) % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed)).to(device)
