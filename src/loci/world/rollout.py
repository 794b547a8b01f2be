"""One chunk of a walk: from what is remembered and what is pressed to new latents."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from loci.caching.presets import Preset
from loci.caching.stats import Stats
from loci.flow import (
    Rows,
    State,
    StepPolicy,
    TokenPolicy,
    Velocity,
    euler_timesteps,
    guided,
    sample,
)
from loci.memory.hierarchical import HierarchicalMemoryConfig
from loci.memory.hpmc import WindowPlan
from loci.memory.poses import ActionScale
from loci.memory.schedule import HierarchyConfig
from loci.world.block import to_latents, to_tokens
from loci.world.conditioning import Actions, ChunkContext, ChunkPoses, Prompt
from loci.world.partial import CachedTokens, TokenView
from loci.world.transformer import WorldTransformer

VIDEO = "video"
"""The name of the only tensor that flows in a chunk: its tokens `[n, p]` (`world/patches.py`)."""


@dataclass(frozen=True)
class SamplingConfig:
    """The released values are 30 steps, shift 7, guidance 5, on the released grid (7)."""

    steps: int = 30
    shift: float = 7.0
    even: bool = False
    guidance: float = 5.0

    def fewer(self, part: float) -> "SamplingConfig":
        """With a part of the steps, at least one."""
        return replace(self, steps=max(1, round(part * self.steps)))


def chunk_context(
    model: WorldTransformer,
    memory: Float[Tensor, "1 c k h w"] | None,
    local: Float[Tensor, "1 16 1 h w"],
    actions: Actions,
    prompt: Prompt | None,
    address: ChunkPoses | None,
) -> ChunkContext:
    """The chunk's conditioning, made once: one row, or one for each row of the prompt."""
    rows = 1 if prompt is None else prompt.states.shape[0]
    if memory is not None:
        memory = memory.expand(rows, -1, -1, -1, -1)
    return model.context(memory, local.expand(rows, -1, -1, -1, -1), actions, prompt, address)


def sample_chunk(
    model: WorldTransformer,
    noise: Float[Tensor, "1 16 t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    policy: StepPolicy | None = None,
) -> Float[Tensor, "1 16 t h w"]:
    """Latents of a chunk from its noise; guided where the context has a negative row.

    A policy is for this chunk alone: what it knows of one velocity says nothing of the next
    chunk's. The state it meets is `{"video": tokens [n, p]}`, a row for every token.
    """
    keeping = isinstance(policy, TokenPolicy) and not policy.alone
    flow = ChunkFlow(model, context, noise.shape, keeping)

    def stepped(velocity: Velocity) -> Velocity:
        several = context.target_offset.shape[0] > 1
        return guided(velocity, sampling.guidance) if several else velocity

    state = sample(
        stepped(flow.whole),
        {VIDEO: to_tokens(noise)[0]},
        euler_timesteps(sampling.steps, sampling.shift, sampling.even),
        policy,
        partial=lambda state, timestep, rows: stepped(flow.part(rows))(state, timestep),
    )
    return to_latents(state[VIDEO][None], noise.shape)


def sample_at_speed(
    model: WorldTransformer,
    noise: Float[Tensor, "1 16 t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    speed: Preset,
    ledger: Stats,
    verify: bool = False,
) -> Float[Tensor, "1 16 t h w"]:
    """`sample_chunk` with what a speed spares, written down under "chunks".

    With `verify` it is sampled once more, exactly, and the error is written down as well.
    """
    taken = sampling.fewer(speed.walk_steps)
    with ledger.timed("chunks") as entry:
        policy = ledger.watched("chunks", speed.walk_policy())
        latents = sample_chunk(model, noise, context, taken, policy)
        entry.exact += sampling.steps - taken.steps
    if verify:
        exact = sample_chunk(model, noise, context, sampling)
        ledger.verified("chunks", {VIDEO: latents}, {VIDEO: exact})
    return latents


class ChunkFlow:
    """The velocity of one chunk's tokens for a sampler: of all, or of some rows.

    With `keeping` it remembers every evaluation, and when some tokens are evaluated the others
    stay keys and values of self-attention. Without, they are absent.

    Args:
        model: the transformer.
        context: of the chunk. Where it has several rows, states hold the tokens of as many copies
            of the chunk, one after the other, and velocities are alike.
        shape: of the chunk's latents.
        keeping: whether evaluations are remembered.
    """

    def __init__(
        self, model: WorldTransformer, context: ChunkContext, shape: torch.Size, keeping: bool
    ) -> None:
        self.model, self.context = model, context
        self.shape = torch.Size((context.target_offset.shape[0], *shape[1:]))
        self.kept = CachedTokens() if keeping else None

    def whole(self, state: State, timestep: Float[Tensor, "m"]) -> State:
        """Of every token."""
        view = TokenView() if self.kept is None else self.kept.whole()
        return {VIDEO: self._tokens(state, timestep, view).flatten(0, 1)}

    def part(self, rows: Rows) -> Velocity:
        """Of some tokens of the chunk; asked with the state of all."""

        def velocity(state: State, timestep: Tensor) -> State:
            if self.kept is not None and self.kept.empty:  # there is nothing to look back at
                every = self._tokens(state, timestep, self.kept.whole())
                return {VIDEO: every[:, rows].flatten(0, 1)}
            view = TokenView(rows) if self.kept is None else self.kept.part(rows)
            return {VIDEO: self._tokens(state, timestep, view).flatten(0, 1)}

        return velocity

    def _tokens(self, state: State, timestep: Tensor, view: TokenView) -> Tensor:
        """Every token is at the same time, so the network gets it once for each copy."""
        copies = self.shape[0]
        noisy = to_latents(state[VIDEO].unflatten(0, (copies, -1)), self.shape)
        return self.model.token_velocity(noisy, timestep[:copies], self.context, view)


def chunk_noise(
    seed: int, chunk: int, shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "1 16 t h w"]:
    """Standard normal noise that depends on the walk's seed and the chunk's number alone.

    Drawn on the CPU, so that a walk is the same on every device up to rounding.
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + chunk * 0xBF58476D1CE4E5B9 + 1) % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed)).to(device)


def _released_horizon() -> HierarchicalMemoryConfig:
    """The published memory while its windows touch, then windows of the same size."""
    exact = WindowPlan()
    return HierarchicalMemoryConfig(HierarchyConfig(window=exact.window), exact)


@dataclass(frozen=True)
class WorldConfig:
    """How a world is walked. The defaults are those of the released model.

    `size` is height and width of the frames, None to choose the released bucket nearest to the
    picture's shape. A chunk makes `chunk` new frames; with `overlap` it makes the newest frame
    again as its first latent, which is thrown away. With `reencode` the history holds what the
    codec sees in the decoded frames, otherwise the sampled latents. With `lag` the memory holds
    everything before the local frame, otherwise that frame as well. `moves` and `views` list the
    action ids the model was trained on; all of the vocabulary if empty.
    """

    size: tuple[int, int] | None = None
    fps: int = 30
    chunk: int = 80
    overlap: bool = True
    reencode: bool = True
    lag: bool = False
    codec: Literal["frame", "wan"] = "wan"
    text: bool = True
    moves: tuple[int, ...] = ()
    views: tuple[int, ...] = ()
    stride: ActionScale | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    horizon: HierarchicalMemoryConfig = field(default_factory=_released_horizon)
