"""Sampling the latents of one chunk, all tokens at a time or, with a token policy, some of them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from loci.acceleration.presets import Preset
from loci.acceleration.stats import Stats
from loci.flow import (
    OnStep,
    State,
    StepPolicy,
    TokenIndices,
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
from loci.world.prompt_group import PromptGroup
from loci.world.transformer import WorldTransformer

ReportStep = Callable[[int, int], None]
"""Called before each step with its index and the number of steps."""
MAX_BATCHED_TOKENS = 8192
"""Tokens up to which prompt and negative prompt are evaluated as one batch."""
LATENTS = "latents"
"""The only tensor of several walks' sampling state: the latents of their chunks."""
TOKENS = "tokens"
"""The only tensor of a single walk's sampling state: the chunk's tokens `[n, p]` (`to_tokens`)."""


def sample_latents(
    model: WorldTransformer,
    noise: Float[Tensor, "1 c t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    *,
    policy: StepPolicy | None = None,
    report_step: ReportStep | None = None,
    group: PromptGroup | None = None,
) -> Float[Tensor, "1 c t h w"]:
    """Latents of one walk's chunk from noise, with guidance if the context has a negative prompt.

    Args:
        model: the transformer.
        noise: standard normal.
        context: the conditioning of the chunk.
        sampling: steps, timesteps and guidance.
        policy: which steps and tokens are evaluated, for this chunk; its state is
            `{"tokens": [n, p]}`. Everything by default.
        report_step: called before each step with its index and the number of steps.
        group: two processes that all call this with the same arguments: with guidance, each
            evaluates one of the prompts.
    """
    timesteps = sampling.timesteps()
    cached = isinstance(policy, TokenPolicy) and policy.attends_to_cached
    flow = ChunkVelocity(model, context, noise.shape, cached, group)

    def with_guidance(velocity: Velocity) -> Velocity:
        negative = context.frame_embedding.shape[0] > 1
        return batched_guidance(velocity, sampling.guidance_scale) if negative else velocity

    state = sample(
        with_guidance(flow.whole),
        {TOKENS: to_tokens(noise)[0]},
        timesteps,
        policy=policy,
        on_step=_with_steps(report_step, len(timesteps)),
        partial=lambda state, timestep, indices: with_guidance(flow.part(indices))(state, timestep),
        order=sampling.order,
    )
    return to_latents(state[TOKENS][None], noise.shape)


def sample_walk_batch(
    model: WorldTransformer,
    noise: Float[Tensor, "b c t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    *,
    report_step: ReportStep | None = None,
) -> Float[Tensor, "b c t h w"]:
    """Latents of several walks' chunks from noise, without guidance; arguments as `sample_latents`.

    The walks pass through the transformer as one batch, as `stack_contexts` orders them.
    """
    timesteps = sampling.timesteps()

    def velocity(state: State, timestep: Tensor) -> State:
        return {LATENTS: model.velocity(state[LATENTS], timestep, context)}

    on_step = _with_steps(report_step, len(timesteps))
    state = sample(velocity, {LATENTS: noise}, timesteps, on_step=on_step, order=sampling.order)
    return state[LATENTS]


def _with_steps(report_step: ReportStep | None, steps: int) -> OnStep | None:
    """`report_step` in the form that `loci.flow.sample` calls."""
    return None if report_step is None else lambda step, state: report_step(step, steps)


def sample_with_preset(
    model: WorldTransformer,
    noise: Float[Tensor, "1 c t h w"],
    context: ChunkContext,
    sampling: SamplingConfig,
    preset: Preset,
    stats: Stats,
    *,
    verify: bool = False,
    report_step: ReportStep | None = None,
    group: PromptGroup | None = None,
) -> Float[Tensor, "1 c t h w"]:
    """`sample_latents` with the approximations of a preset, counted under "sampling".

    With `verify` it is sampled once more, exactly, and the relative error recorded.
    """
    fewer = shortened(sampling, preset.walk_step_share)
    with stats.timed("sampling") as stage:
        policy = stats.counted("sampling", preset.walk_policy())
        latents = sample_latents(
            model, noise, context, fewer, policy=policy, report_step=report_step, group=group
        )
        stage.exact_evaluations += sampling.steps - fewer.steps
    if verify:
        exact = sample_latents(model, noise, context, sampling)
        stats.record_errors("sampling", {LATENTS: latents}, {LATENTS: exact})
    return latents


class ChunkVelocity:
    """The velocity of one chunk's tokens for a sampler: of all, or of some of them.

    Args:
        model: the transformer.
        context: the conditioning of the chunk. If it is a batch (prompt and negative prompt),
            states hold the tokens of as many copies of the chunk, one after the other.
        shape: the shape of the chunk's latents.
        cached: when some tokens are evaluated, the others stay in self-attention with their last
            keys and values. Otherwise they are absent.
        group: as many processes as the context has batch entries, each of which evaluates one.

    Raises:
        ValueError: when there are more or fewer processes, or tokens are cached with a group.
    """

    def __init__(
        self,
        model: WorldTransformer,
        context: ChunkContext,
        shape: torch.Size,
        cached: bool,
        group: PromptGroup | None = None,
    ) -> None:
        copies = context.frame_embedding.shape[0]
        if group is not None and (group.size != copies or cached):
            raise ValueError(
                f"{group.size} processes for {copies} prompts: expected one for each, and a "
                "preset that evaluates every token"
            )
        self.model, self.context, self.group = model, context, group
        self.shape = torch.Size((copies, *shape[1:]))
        self.cache = KeyValueCache() if cached else None

    def whole(self, state: State, timestep: Float[Tensor, "m"]) -> State:
        """The velocity of every token."""
        return {TOKENS: self._tokens(state, timestep).flatten(0, 1)}

    def part(self, indices: TokenIndices) -> Velocity:
        """The velocity of some tokens, as a function of the state of all."""

        def velocity(state: State, timestep: Tensor) -> State:
            if self.cache is not None and self.cache.empty:
                return {TOKENS: self._tokens(state, timestep)[:, indices].flatten(0, 1)}
            return {TOKENS: self._tokens(state, timestep, indices).flatten(0, 1)}

        return velocity

    def _tokens(
        self, state: State, timestep: Tensor, indices: TokenIndices | None = None
    ) -> Tensor:
        copies = self.shape[0]  # all tokens have the same timestep, so one for each copy will do
        tokens = state[TOKENS].unflatten(0, (copies, -1))
        noisy, timestep = to_latents(tokens, self.shape), timestep[:copies]
        all_uncached = self.cache is None and indices is None
        is_large = tokens.shape[1] > MAX_BATCHED_TOKENS
        if copies > 1 and all_uncached and (self.group is not None or is_large):
            return self._one_prompt_at_a_time(noisy, timestep)
        return self.model.token_velocity(noisy, timestep, self.context, indices, self.cache)

    def _one_prompt_at_a_time(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Prompt and negative prompt one after the other, which takes half the memory and, with
        that many tokens, no more time; or each in its process."""

        def velocity(index: int) -> Tensor:
            one = slice(index, index + 1)
            context = self.context.entry(index)
            return self.model.token_velocity(noisy[one], timestep[one], context)

        copies = len(noisy)
        if self.group is None:
            return torch.cat([velocity(index) for index in range(copies)])
        return torch.cat(self.group.gather(velocity(self.group.rank)))


def chunk_noise(
    seed: int, chunk: int, shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "b c t h w"]:
    """Standard normal noise, determined by the walk's seed and the chunk's number.

    Drawn on the CPU, so that a walk is the same on every device up to rounding.
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + chunk * 0xBF58476D1CE4E5B9 + 1) % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed)).to(device)
