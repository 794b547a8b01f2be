"""Sampling the latents of one chunk, all tokens at a time or, with a token policy, some of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed
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
    batched_guidance,
    sample,
    shortened,
)
from loci.nn.attention import KeyValueCache
from loci.world.block import to_latents, to_tokens
from loci.world.conditioning import ChunkContext
from loci.world.config import SamplingConfig
from loci.world.transformer import WorldTransformer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OnStep = Callable[[int, int], None]
"""(step, steps), before each step."""
LARGE_ROW = 8192
"""Tokens from which on the rows of guidance are evaluated one after the other."""
LATENTS = "latents"
"""The only tensor of several walks' sampling state: the latents of their chunks."""
VIDEO = "video"
"""The only tensor of a walk's sampling state: the chunk's tokens `[n, p]` (`to_tokens`)."""


def sample_chunk(
    model: WorldTransformer,
    noise: Float[Tensor, "b c t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    *,
    policy: StepPolicy | None = None,
    on_step: OnStep | None = None,
    group: "ProcessGroup | None" = None,
) -> Float[Tensor, "1 c t h w"]:
    """Latents of one walk's chunk from noise, with guidance if the context has a negative prompt.

    Args:
        model: the transformer.
        noise: standard normal.
        context: of the chunk.
        sampling: steps, timesteps and guidance.
        policy: which steps and tokens are evaluated, for this chunk; its state is
            `{"video": tokens [n, p]}`. Everything by default.
        on_step: called before each step with its number and that of all steps.
        group: two processes that all call this with the same arguments: with guidance, each
            evaluates one of the prompts.
    """
    timesteps = sampling.timesteps()
    cached = isinstance(policy, TokenPolicy) and policy.attends_to_cached
    flow = ChunkFlow(model, context, noise.shape, cached, group)

    def with_guidance(velocity: Velocity) -> Velocity:
        negative = context.frame_embedding.shape[0] > 1
        return batched_guidance(velocity, sampling.guidance) if negative else velocity

    state = sample(
        with_guidance(flow.whole),
        {VIDEO: to_tokens(noise)[0]},
        timesteps,
        policy=policy,
        on_step=_reporting(on_step, len(timesteps)),
        partial=lambda state, timestep, rows: with_guidance(flow.part(rows))(state, timestep),
        order=sampling.order,
    )
    return to_latents(state[VIDEO][None], noise.shape)


def sample_chunks(
    model: WorldTransformer,
    noise: Float[Tensor, "b c t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    *,
    on_step: OnStep | None = None,
) -> Float[Tensor, "b c t h w"]:
    """Latents of several walks' chunks from noise, without guidance; arguments as `sample_chunk`.

    The walks pass through the transformer together; `context` has a row for each.
    """
    timesteps = sampling.timesteps()

    def velocity(state: State, timestep: Tensor) -> State:
        return {LATENTS: model.velocity(state[LATENTS], timestep, context)}

    report = _reporting(on_step, len(timesteps))
    return sample(velocity, {LATENTS: noise}, timesteps, on_step=report, order=sampling.order)[
        LATENTS
    ]


def _reporting(on_step: OnStep | None, steps: int) -> Callable[[int, State], None] | None:
    return None if on_step is None else lambda step, state: on_step(step, steps)


def sample_with_preset(
    model: WorldTransformer,
    noise: Float[Tensor, "1 c t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    preset: Preset,
    stats: Stats,
    *,
    verify: bool = False,
    on_step: OnStep | None = None,
    group: "ProcessGroup | None" = None,
) -> Float[Tensor, "1 c t h w"]:
    """`sample_chunk` with the approximations of a preset, counted under "chunks".

    With `verify` it is sampled once more, exactly, and the relative error recorded.
    """
    fewer = shortened(sampling, preset.walk_step_share)
    with stats.timed("chunks") as stage:
        policy = stats.counted("chunks", preset.walk_policy())
        latents = sample_chunk(
            model, noise, context, fewer, policy=policy, on_step=on_step, group=group
        )
        stage.exact_evaluations += sampling.steps - fewer.steps
    if verify:
        exact = sample_chunk(model, noise, context, sampling)
        stats.record_errors("chunks", {VIDEO: latents}, {VIDEO: exact})
    return latents


class ChunkFlow:
    """The velocity of one chunk's tokens for a sampler: of all, or of some rows.

    Args:
        model: the transformer.
        context: of the chunk. With several rows (prompt and negative prompt) states hold the tokens
            of as many copies of the chunk, one after the other.
        shape: of the chunk's latents.
        cached: when some tokens are evaluated, the others stay in self-attention with their last
            keys and values. Otherwise they are absent.
        group: as many processes as the context has rows, each of which evaluates one.

    Raises:
        ValueError: when there are more or fewer processes, or tokens are cached with a group.
    """

    def __init__(
        self,
        model: WorldTransformer,
        context: ChunkContext,
        shape: torch.Size,
        cached: bool,
        group: "ProcessGroup | None" = None,
    ) -> None:
        copies = context.frame_embedding.shape[0]
        if group is not None and (group.size() != copies or cached):
            raise ValueError(
                f"{group.size()} processes for {copies} rows: expected one for each, and a preset "
                "that evaluates every token"
            )
        self.model, self.context, self.group = model, context, group
        self.shape = torch.Size((context.frame_embedding.shape[0], *shape[1:]))
        self.cache = KeyValueCache() if cached else None

    def whole(self, state: State, timestep: Float[Tensor, "m"]) -> State:
        """The velocity of every token."""
        return {VIDEO: self._tokens(state, timestep).flatten(0, 1)}

    def part(self, rows: Rows) -> Velocity:
        """The velocity of some tokens, as a function of the state of all."""

        def velocity(state: State, timestep: Tensor) -> State:
            if self.cache is not None and self.cache.empty:
                return {VIDEO: self._tokens(state, timestep)[:, rows].flatten(0, 1)}
            return {VIDEO: self._tokens(state, timestep, rows).flatten(0, 1)}

        return velocity

    def _tokens(self, state: State, timestep: Tensor, rows: Rows | None = None) -> Tensor:
        copies = self.shape[0]  # all tokens have the same timestep, so one for each copy will do
        tokens = state[VIDEO].unflatten(0, (copies, -1))
        noisy, timestep = to_latents(tokens, self.shape), timestep[:copies]
        plain = copies > 1 and self.cache is None and rows is None
        if plain and (self.group is not None or tokens.shape[1] > LARGE_ROW):
            return self._row_by_row(noisy, timestep)
        return self.model.token_velocity(noisy, timestep, self.context, rows=rows, cache=self.cache)

    def _row_by_row(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Prompt and negative prompt one after the other, which takes half the memory and, with
        that many tokens, no more time; or each in its process."""

        def velocity(row: int) -> Tensor:
            one = slice(row, row + 1)
            context = self.context.row(row)
            return self.model.token_velocity(noisy[one], timestep[one], context)

        copies = len(noisy)
        if self.group is None:
            return torch.cat([velocity(row) for row in range(copies)])
        own = velocity(self.group.rank()).contiguous()
        rows = [torch.empty_like(own) for _ in range(copies)]
        torch.distributed.all_gather(rows, own, group=self.group)
        return torch.cat(rows)


def chunk_noise(
    seed: int, chunk: int, shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "b c t h w"]:
    """Standard normal noise, determined by the walk's seed and the chunk's number.

    Drawn on the CPU, so that a walk is the same on every device up to rounding.
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + chunk * 0xBF58476D1CE4E5B9 + 1) % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed)).to(device)
