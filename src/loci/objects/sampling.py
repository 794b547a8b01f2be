"""Sampling stage 1: noise to shape and layout latents."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from loci.caching.calibration import ModelCalibration
from loci.caching.error_budget import Interval, is_guided
from loci.caching.presets import UNCALIBRATED, Preset, as_preset
from loci.caching.stats import StageStats, Stats
from loci.flow import (
    TIMESTEPS,
    Rows,
    State,
    StepPolicy,
    TokenPolicy,
    Velocity,
    check_temperature,
    guided_within,
    rescaled_times,
    sample,
)
from loci.nn.sparse.partial import KeptVoxels
from loci.nn.sparse.tensor import Voxels
from loci.objects.models.slat_flow import LatentStatistics, SlatContext, SlatFlow
from loci.objects.models.structure_flow import StructureFlow, for_all
from loci.objects.placement.voxels import VoxelChoice


@dataclass(frozen=True)
class StructureSampling:
    """The released run: 19 guided and 6 plain steps, 44 evaluations (SAM 3D Objects, 5).

    `interval` is the part of the run, as 1000 times the time, that is guided. With `shortcut` the
    network is told how long the steps are, so that few suffice, and there is no guidance. As
    released it is told 1 / steps at every step, also where the grid's steps are not equally long.
    `temperature` is how loud the noise is that a run begins with: below 1 it ends with likelier
    shapes.
    """

    steps: int = 25
    rescale: float = 3.0
    guidance: float = 7.0
    interval: tuple[float, float] = (0.0, 500.0)
    shortcut: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def fewer(self, part: float) -> "StructureSampling":
        """With a part of the steps, at least one."""
        return replace(self, steps=max(1, round(part * self.steps)))


def sample_structure(
    flow: StructureFlow,
    condition: Float[Tensor, "c m d"],
    noise: State,
    settings: StructureSampling | None = None,
    policy: StepPolicy | None = None,
    on_step: Callable[[int, State], None] | None = None,
    guide_every: int = 1,
) -> State:
    """The latents of an object, by released name.

    Args:
        flow: the stage-1 network.
        condition: tokens of the picture, made by the fuser; one row may stand for all.
        noise: as made by `flow.noise`.
        settings: the released run by default.
        policy: may propose a velocity instead of an evaluation; evaluates every step by default.
        on_step: called before each step with its index and the state.
        guide_every: as `every` of `guided_within`.
    """
    settings = settings or StructureSampling()
    # In float64, so that the steps' lengths are the released ones to the last bit.
    times = rescaled_times(settings.steps, settings.rescale, torch.float64)
    told = TIMESTEPS / settings.steps if settings.shortcut else 0.0
    context = for_all(flow.context(condition), len(next(iter(noise.values()))))
    velocity = guided_within(
        lambda x, t: flow.velocity(x, t, context, torch.full_like(t, told)),
        lambda x, t: flow.velocity(x, t, None, torch.full_like(t, told)),
        0.0 if settings.shortcut else settings.guidance,
        settings.interval,
        guide_every,
    )
    noise = {name: settings.temperature * x for name, x in noise.items()}
    return sample(velocity, noise, times[:-1] * TIMESTEPS, policy, on_step, end=1.0)


LATENTS = "latents"
"""The name of the only tensor that flows in stage 2."""


@dataclass(frozen=True)
class SlatSampling:
    """The released run: 13 guided and 12 plain steps, 38 evaluations (SAM 3D Objects, 5).

    `interval` is the part of the run, as 1000 times the time, that is guided. The released
    distilled mode of stage 2 is a `guidance` of 0 and nothing else. `temperature` is how loud the
    noise is that a run begins with: below 1 it ends with what is likelier, and more even.
    """

    steps: int = 25
    rescale: float = 1.0
    guidance: float = 1.0
    interval: tuple[float, float] = (0.0, 500.0)
    statistics: LatentStatistics = field(default_factory=LatentStatistics)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def fewer(self, part: float) -> "SlatSampling":
        """With a part of the steps, at least one."""
        return replace(self, steps=max(1, round(part * self.steps)))


def latent_noise(
    flow: SlatFlow, voxels: Voxels, generator: torch.Generator | None = None
) -> Float[Tensor, "n c"]:
    """Standard normal latents on the voxels' device; float32. Drawn after stage 1's noise."""
    shape = (len(voxels), flow.config.channels)
    return torch.randn(shape, generator=generator, device=voxels.coords.device)


def sample_latents(
    flow: SlatFlow,
    condition: Float[Tensor, "b m c"],
    voxels: Voxels,
    noise: Float[Tensor, "n c"],
    settings: SlatSampling | None = None,
    policy: StepPolicy | None = None,
    on_step: Callable[[int, State], None] | None = None,
    guide_every: int = 1,
    aligned: Float[Tensor, "n a"] | None = None,
) -> Float[Tensor, "n c"]:
    """The latents of an object's voxels, denormalised: what the decoders take.

    Args:
        flow: the stage-2 network.
        condition: tokens of the picture, made by the fuser, a row for every item.
        voxels: the structure that stage 1 found.
        noise: as made by `latent_noise`.
        settings: the released run by default.
        policy: may propose a velocity instead of an evaluation, or choose voxels to evaluate;
            evaluates everything by default.
        on_step: called before each step with its index and the state `{"latents": ...}`.
        guide_every: as `every` of `guided_within`; of whole evaluations, a part makes both.
        aligned: the pixels of each voxel, if they are known (`loci.objects.inputs.pixel_aligned`).
    """
    settings = settings or SlatSampling()
    times = rescaled_times(settings.steps, settings.rescale)
    keeping = isinstance(policy, TokenPolicy) and not policy.alone
    conditional = LatentBranch(flow, voxels, flow.context(condition, aligned), keeping)
    unconditional = LatentBranch(flow, voxels, None, keeping)

    # Every voxel is at the same time, so the network gets it once.
    def whole(branch: LatentBranch) -> Velocity:
        return lambda x, t: {LATENTS: branch.whole(x[LATENTS], t[:1])}

    def part(branch: LatentBranch, rows: Rows) -> Velocity:
        return lambda x, t: {LATENTS: branch.part(x[LATENTS], t[:1], rows)}

    guidance = settings.guidance, settings.interval

    def partial(state: State, time: Tensor, rows: Rows) -> State:
        branches = part(conditional, rows), part(unconditional, rows)
        return guided_within(*branches, *guidance)(state, time)

    state = sample(
        guided_within(whole(conditional), whole(unconditional), *guidance, guide_every),
        {LATENTS: settings.temperature * noise},
        times[:-1] * TIMESTEPS,
        policy,
        on_step,
        end=1.0,
        partial=partial,
    )
    return settings.statistics.denormalise(state[LATENTS])


class LatentBranch:
    """One branch of the guidance of one run: the latent flow under one condition.

    With `keeping` it remembers every evaluation, and when some voxels are evaluated the others
    stay keys, values and convolution context. Without, they are absent.
    """

    def __init__(
        self, flow: SlatFlow, voxels: Voxels, context: SlatContext | None, keeping: bool
    ) -> None:
        self.flow, self.voxels, self.context = flow, voxels, context
        self.kept = KeptVoxels(voxels) if keeping else None

    def whole(
        self, latents: Float[Tensor, "n c"], time: Float[Tensor, "b"]
    ) -> Float[Tensor, "n c"]:
        """The velocity of every voxel."""
        places = self.voxels if self.kept is None else self.kept.whole()
        return self.flow.velocity(latents, time, places, self.context)

    def part(
        self, latents: Float[Tensor, "n c"], time: Float[Tensor, "b"], rows: Rows
    ) -> Float[Tensor, "k c"]:
        """The velocity of some voxels; `latents` are those of all."""
        if self.kept is None:
            places = Voxels(self.voxels.coords[rows])
        elif self.kept.empty:
            # A branch that guidance just switched on has nothing to look back at.
            return self.whole(latents, time)[rows]
        else:
            places = self.kept.part(rows)
        context = None if self.context is None else self.context.part(rows)
        return self.flow.velocity(latents[rows], time, places, context)


OnStep = Callable[[int, State], None]
Settings = TypeVar("Settings", StructureSampling, SlatSampling)


class SamplerRunner:
    """A speed with the ledger of one run or of several.

    What the speed leaves open the model's `laws` say. With `verify` every flow runs a second time,
    exactly, from the same noise and on the same voxels. What that costs is not in the ledger, and
    what it finds does not change the run.
    """

    def __init__(
        self,
        speed: str | Preset | None = None,
        ledger: Stats | None = None,
        verify: bool = False,
        laws: ModelCalibration | None = None,
    ) -> None:
        self.speed, self.verify = as_preset(speed).calibrated(laws or ModelCalibration()), verify
        self.ledger = ledger if ledger is not None else Stats()
        if {"structure", "latents"} & set(self.speed.uncalibrated):
            self.ledger.note(UNCALIBRATED)

    def timed(self, stage: str) -> AbstractContextManager[StageStats]:
        """Adds the seconds of the block to the stage."""
        return self.ledger.timed(stage)

    def steps(self, settings: Settings) -> int:
        """How many Euler steps of a flow are taken."""
        return self.fewer(settings).steps

    def fewer(self, settings: Settings) -> Settings:
        """With as many of its steps as are taken."""
        of_structure = isinstance(settings, StructureSampling)
        part = self.speed.structure_steps if of_structure else self.speed.latent_steps
        return settings.fewer(part)

    def structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        tell: OnStep,
    ) -> State:
        """Stage 1 of an object; arguments as of `sample_structure`."""
        interval, every = guided_interval(settings), self.speed.guide_every
        taken = self.fewer(settings)
        policy = self.speed.structure_policy(interval)
        with self.timed("structure") as entry:
            watched = self.ledger.watched("structure", policy, interval, every)
            found = sample_structure(flow, condition, noise, taken, watched, tell, every)
            entry.exact += evaluations(settings) - evaluations(taken)
        if self.verify:
            exact = sample_structure(flow, condition, noise, settings)
            self.ledger.verified("structure", found, exact)
        return found

    def latents(
        self,
        flow: SlatFlow,
        condition: Float[Tensor, "1 m c"],
        choice: VoxelChoice,
        noise: Float[Tensor, "n c"],
        settings: SlatSampling,
        tell: OnStep,
        aligned: Float[Tensor, "n a"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Stage 2 of an object; arguments as of `sample_latents`."""
        interval, voxels = guided_interval(settings), choice.voxels
        blocks = tokens_of(voxels, len(flow.config.io_channels))
        policy = self.speed.latent_policy(interval, choice.scores, blocks)
        taken, every = self.fewer(settings), self.speed.guide_every
        with self.timed("latents") as entry:
            watched = self.ledger.watched("latents", policy, interval, every)
            found = sample_latents(
                *(flow, condition, voxels, noise, taken, watched, tell, every, aligned)
            )
            entry.exact += evaluations(settings) - evaluations(taken)
        if self.verify:
            exact = sample_latents(flow, condition, voxels, noise, settings, aligned=aligned)
            self.ledger.verified("latents", {LATENTS: found}, {LATENTS: exact})
        return found


def guided_interval(settings: StructureSampling | SlatSampling) -> Interval | None:
    """The timesteps between which a flow takes two evaluations; None if it never does."""
    shortcut = isinstance(settings, StructureSampling) and settings.shortcut
    return None if shortcut or settings.guidance <= 0 else settings.interval


def evaluations(settings: StructureSampling | SlatSampling) -> int:
    """Of the network in a whole run, guided ones counted twice."""
    times = rescaled_times(settings.steps, settings.rescale)[:-1] * TIMESTEPS
    interval = guided_interval(settings)
    return len(times) + sum(is_guided(step, times, interval) for step in range(len(times)))


def tokens_of(voxels: Voxels, levels: int) -> Tensor:
    """For every voxel the token that stands for it so many levels further down, as a label."""
    labels = voxels.coarser.parent
    for _ in range(levels - 1):
        voxels = voxels.coarser.voxels
        labels = voxels.coarser.parent[labels]
    return labels
