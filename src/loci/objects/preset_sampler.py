"""Runs the samplers of both stages under a preset, counts evaluations, and verifies on request."""

from contextlib import AbstractContextManager
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from loci.caching.calibration import ModelCalibration
from loci.caching.error_budget import Interval, is_guided
from loci.caching.presets import UNCALIBRATED, Preset, as_preset
from loci.caching.stats import StageStats, Stats
from loci.flow import TIMESTEPS, OnStep, State, rescaled_times, shortened
from loci.nn.sparse.tensor import Voxels
from loci.objects.models.slat_flow import SlatFlow
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.placement.voxels import VoxelChoice
from loci.objects.sampling import (
    LATENTS,
    SlatSampling,
    StructureSampling,
    sample_slat,
    sample_structure,
)

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
