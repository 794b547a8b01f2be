"""Sampling both stages: noise to structure and layout latents, and to structured latents (SLAT).

The settings hold a run's steps and guidance; `loci.flow.sample` takes the Euler steps of both.
`PresetSampler` runs them under a speed preset, counts evaluations, and verifies on request.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.error_budget import Interval, is_guided
from loci.acceleration.presets import UNCALIBRATED, Preset, as_preset
from loci.acceleration.stats import StageStats, Stats
from loci.flow import (
    TIMESTEPS,
    OnStep,
    State,
    StepPolicy,
    TokenIndices,
    TokenPolicy,
    Velocity,
    check_temperature,
    interval_guidance,
    rescaled_times,
    sample,
    shortened,
)
from loci.nn.sparse.partial_voxels import VoxelCache
from loci.nn.sparse.voxels import Voxels
from loci.objects.models.slat_flow import SlatContext, SlatFlow, SlatStatistics
from loci.objects.models.structure_flow import StructureFlow, expand_context
from loci.objects.placement.voxels import VoxelChoice

LATENTS = "latents"
"""The name of the only tensor in the state of stage 2."""


@dataclass(frozen=True)
class StructureSampling:
    """Stage 1. The defaults are the published run: 19 guided and 6 plain steps, 44 evaluations.

    Attributes:
        steps: Euler steps.
        rescale: r of `loci.flow.rescaled_times`.
        guidance_strength: w of `loci.flow.interval_guidance`; 0 for none.
        interval: timesteps (0..1000) that are guided, ends included.
        shortcut: the network is told the step length, for few steps without guidance. As published
            that is 1 / steps at every step, even where the steps are not equally long.
        temperature: factor of the initial noise; below 1 gives likelier shapes.

    Raises:
        ValueError: for a temperature that is negative or not finite.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"guidance": "guidance_strength"}

    steps: int = 25
    rescale: float = 3.0
    guidance_strength: float = 7.0
    interval: tuple[float, float] = (0.0, 500.0)
    shortcut: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)


def sample_structure(
    flow: StructureFlow,
    condition: Float[Tensor, "c m d"],
    noise: State,
    settings: StructureSampling | None = None,
    policy: StepPolicy | None = None,
    on_step: OnStep | None = None,
    guide_every: int | None = 1,
) -> State:
    """Stage 1: the structure and layout latents of an object, by published name.

    Args:
        flow: the structure flow.
        condition: tokens of the picture from the fuser; one may serve a whole batch of noise.
        noise: from `flow.noise`.
        settings: the published run by default.
        policy: may propose a velocity instead of an evaluation; evaluates every step by default.
        on_step: called before each step with its index and the state.
        guide_every: as `every` of `interval_guidance`.
    """
    settings = settings or StructureSampling()
    # In float64, so that step lengths equal the published ones exactly.
    times = rescaled_times(settings.steps, settings.rescale, torch.float64)
    step_length = TIMESTEPS / settings.steps if settings.shortcut else 0.0
    context = expand_context(flow.context(condition), len(next(iter(noise.values()))))
    velocity = interval_guidance(
        lambda x, t: flow.velocity(x, t, context, torch.full_like(t, step_length)),
        lambda x, t: flow.velocity(x, t, None, torch.full_like(t, step_length)),
        0.0 if settings.shortcut else settings.guidance_strength,
        settings.interval,
        guide_every,
    )
    noise = {name: settings.temperature * x for name, x in noise.items()}
    return sample(velocity, noise, times[:-1] * TIMESTEPS, policy=policy, on_step=on_step, end=1.0)


@dataclass(frozen=True)
class SlatSampling:
    """Stage 2. The defaults are the published run: 13 guided and 12 plain steps, 38 evaluations.

    Attributes:
        steps: Euler steps.
        rescale: r of `loci.flow.rescaled_times`.
        guidance_strength: w of `loci.flow.interval_guidance`; 0 for none, which is all
            that the published distilled mode of stage 2 changes.
        interval: timesteps (0..1000) that are guided, ends included.
        statistics: of the latents, by which they are denormalised for the decoders.
        temperature: factor of the initial noise; below 1 gives likelier, smoother results.

    Raises:
        ValueError: for a temperature that is negative or not finite.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"guidance": "guidance_strength"}

    steps: int = 25
    rescale: float = 1.0
    guidance_strength: float = 1.0
    interval: tuple[float, float] = (0.0, 500.0)
    statistics: SlatStatistics = field(default_factory=SlatStatistics)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)


def slat_noise(
    flow: SlatFlow, voxels: Voxels, generator: torch.Generator | None = None
) -> Float[Tensor, "n c"]:
    """Standard normal latents on the voxels' device; float32. Drawn after stage 1's noise."""
    shape = (len(voxels), flow.config.channels)
    return torch.randn(shape, generator=generator, device=voxels.coords.device)


def sample_slat(
    flow: SlatFlow,
    condition: Float[Tensor, "b m c"],
    voxels: Voxels,
    noise: Float[Tensor, "n c"],
    settings: SlatSampling | None = None,
    policy: StepPolicy | None = None,
    on_step: OnStep | None = None,
    guide_every: int | None = 1,
    aligned: Float[Tensor, "n a"] | None = None,
) -> Float[Tensor, "n c"]:
    """Stage 2: the latents of an object's voxels, denormalised for the decoders.

    Args:
        flow: the SLAT flow.
        condition: tokens of the picture from the fuser, for every item.
        voxels: the structure from stage 1.
        noise: from `slat_noise`.
        settings: the published run by default.
        policy: may propose a velocity instead of an evaluation, or select the voxels to evaluate;
            evaluates everything by default.
        on_step: called before each step with its index and the state `{"latents": ...}`.
        guide_every: as `every` of `interval_guidance`, for evaluations of all voxels.
        aligned: pixel-aligned features (`loci.objects.inputs.pixel_aligned`), if there are any.
    """
    settings = settings or SlatSampling()
    times = rescaled_times(settings.steps, settings.rescale)
    cached = isinstance(policy, TokenPolicy) and policy.attends_to_cached
    conditional = SlatVelocity(flow, voxels, flow.context(condition, aligned), cached)
    unconditional = SlatVelocity(flow, voxels, None, cached)

    # All voxels are at the same time, so the network takes it once.
    def whole(branch: SlatVelocity) -> Velocity:
        return lambda x, t: {LATENTS: branch.whole(x[LATENTS], t[:1])}

    def part(branch: SlatVelocity, indices: TokenIndices) -> Velocity:
        return lambda x, t: {LATENTS: branch.part(x[LATENTS], t[:1], indices)}

    def guided(conditional: Velocity, unconditional: Velocity, every: int | None = 1) -> Velocity:
        strength, interval = settings.guidance_strength, settings.interval
        return interval_guidance(conditional, unconditional, strength, interval, every)

    def partial(state: State, time: Tensor, indices: TokenIndices) -> State:
        return guided(part(conditional, indices), part(unconditional, indices))(state, time)

    state = sample(
        guided(whole(conditional), whole(unconditional), guide_every),
        {LATENTS: settings.temperature * noise},
        times[:-1] * TIMESTEPS,
        policy=policy,
        on_step=on_step,
        end=1.0,
        partial=partial,
    )
    return settings.statistics.denormalize(state[LATENTS])


class SlatVelocity:
    """One branch of guidance in one run: the SLAT flow under one condition.

    Args:
        flow: the SLAT flow.
        voxels: all of the object.
        context: from `flow.context`; None is the unconditional branch.
        cached: whether a partial evaluation attends to cached features of the other voxels. If
            not, it is run as if those did not exist.
    """

    def __init__(
        self, flow: SlatFlow, voxels: Voxels, context: SlatContext | None, cached: bool
    ) -> None:
        self.flow, self.voxels, self.context = flow, voxels, context
        self.cache = VoxelCache(voxels) if cached else None

    def whole(
        self, latents: Float[Tensor, "n c"], time: Float[Tensor, "b"]
    ) -> Float[Tensor, "n c"]:
        """The velocity of every voxel."""
        voxels = self.voxels if self.cache is None else self.cache.whole()
        return self.flow.velocity(latents, time, voxels, self.context)

    def part(
        self, latents: Float[Tensor, "n c"], time: Float[Tensor, "b"], indices: TokenIndices
    ) -> Float[Tensor, "k c"]:
        """The velocity of some voxels; `latents` are those of all."""
        if self.cache is None:
            voxels = Voxels(self.voxels.coords[indices])
        elif self.cache.empty:
            # Guidance has just begun to use this branch: nothing is cached yet.
            return self.whole(latents, time)[indices]
        else:
            voxels = self.cache.part(indices)
        context = None if self.context is None else self.context.part(indices)
        return self.flow.velocity(latents[indices], time, voxels, context)


# Under a preset

Settings = TypeVar("Settings", StructureSampling, SlatSampling)


class PresetSampler:
    """A preset with the statistics of one lift or of several.

    Args:
        speed: the preset, or its name; exact by default.
        stats: written to; new ones by default.
        verify: run every flow a second time, exactly, from the same noise and on the same voxels,
            and record the error. The result and all other statistics stay the same.
        calibration: of the model, for what the preset leaves open.

    Raises:
        LociError: for an unknown preset.
    """

    def __init__(
        self,
        speed: str | Preset | None = None,
        stats: Stats | None = None,
        verify: bool = False,
        calibration: ModelCalibration | None = None,
    ) -> None:
        self.preset = as_preset(speed).calibrated(calibration or ModelCalibration())
        self.stats = stats if stats is not None else Stats()
        self.verify = verify
        if {"structure", "slat"} & set(self.preset.uncalibrated):
            self.stats.note(UNCALIBRATED)

    def timed(self, stage: str) -> AbstractContextManager[StageStats]:
        """Adds the seconds of the block to a stage of the statistics."""
        return self.stats.timed(stage)

    def fewer_steps(self, settings: Settings) -> Settings:
        """With the number of steps that the preset takes."""
        is_structure = isinstance(settings, StructureSampling)
        preset = self.preset
        return shortened(
            settings, preset.structure_step_share if is_structure else preset.slat_step_share
        )

    def run_structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        on_step: OnStep,
    ) -> State:
        """Stage 1 of an object; arguments as for `sample_structure`."""
        interval, every = guided_interval(settings), self.preset.guide_every
        fewer = self.fewer_steps(settings)
        policy = self.preset.structure_policy(interval)
        with self.timed("structure") as stage:
            counted = self.stats.counted("structure", policy, interval, every)
            latents = sample_structure(flow, condition, noise, fewer, counted, on_step, every)
            stage.exact_evaluations += count_evaluations(settings) - count_evaluations(fewer)
        if self.verify:
            exact = sample_structure(flow, condition, noise, settings)
            self.stats.record_errors("structure", latents, exact)
        return latents

    def run_slat(
        self,
        flow: SlatFlow,
        condition: Float[Tensor, "1 m c"],
        choice: VoxelChoice,
        noise: Float[Tensor, "n c"],
        settings: SlatSampling,
        on_step: OnStep,
        aligned: Float[Tensor, "n a"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Stage 2 of an object; arguments as for `sample_slat`."""
        interval, every = guided_interval(settings), self.preset.guide_every
        fewer, voxels = self.fewer_steps(settings), choice.voxels
        group_ids = ancestors(voxels, len(flow.config.io_channels))
        policy = self.preset.slat_policy(interval, choice.scores, group_ids)
        with self.timed("slat") as stage:
            counted = self.stats.counted("slat", policy, interval, every)
            latents = sample_slat(
                *(flow, condition, voxels, noise, fewer, counted, on_step, every, aligned)
            )
            stage.exact_evaluations += count_evaluations(settings) - count_evaluations(fewer)
        if self.verify:
            exact = sample_slat(flow, condition, voxels, noise, settings, aligned=aligned)
            self.stats.record_errors("slat", {LATENTS: latents}, {LATENTS: exact})
        return latents


def guided_interval(settings: StructureSampling | SlatSampling) -> Interval | None:
    """The timesteps between which a step takes two evaluations; None if none does."""
    shortcut = isinstance(settings, StructureSampling) and settings.shortcut
    return None if shortcut or settings.guidance_strength <= 0 else settings.interval


def count_evaluations(settings: StructureSampling | SlatSampling) -> int:
    """Evaluations of the network in an exact run; a guided step takes two."""
    times = rescaled_times(settings.steps, settings.rescale)[:-1] * TIMESTEPS
    interval = guided_interval(settings)
    return len(times) + sum(is_guided(step, times, interval) for step in range(len(times)))


def ancestors(voxels: Voxels, levels: int) -> Tensor:
    """For every voxel the index of its ancestor so many levels coarser, `[n]`."""
    indices = voxels.coarser.parent
    for _ in range(levels - 1):
        voxels = voxels.coarser.voxels
        indices = voxels.coarser.parent[indices]
    return indices
