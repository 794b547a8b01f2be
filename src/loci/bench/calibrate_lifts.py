"""Errors of both flows at several tolerances, and the calibration of a lifter from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.error_budget import ErrorScale, relative_error
from loci.acceleration.presets import LAYOUT_LATENTS, Preset
from loci.acceleration.spectral import DecodingConfig, fit_thresholds
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_cache import TokenCacheConfig
from loci.bench.objects.cases import Case
from loci.bench.objects.speed_runs import lift_case
from loci.bench.tolerances import ToleranceError, fit_scale
from loci.errors import LociError
from loci.flow import OnStep, State, StepPolicy
from loci.objects.lifter import Lifter
from loci.objects.models.slat_flow import SlatFlow
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.placement.voxels import VoxelChoice
from loci.objects.sampling import (
    LATENTS,
    PresetSampler,
    SlatSampling,
    StructureSampling,
    ancestors,
    guided_interval,
    sample_slat,
    sample_structure,
)

TOLERANCES = (0.01, 0.02, 0.04, 0.08, 0.16)
STAGES = ("structure", "slat")


class ToleranceSampler(PresetSampler):
    """Runs every flow exactly and, from the same noise, at every tolerance; returns the exact run.

    Args:
        calibration: of the tolerances.

    Attributes:
        errors: of all runs, by stage.
        spectral_ratios: of the objects that were found.
    """

    def __init__(self, calibration: ModelCalibration) -> None:
        super().__init__(Preset("tolerances", decoding=DecodingConfig()))
        self.presets = {t: tolerance_preset(t, calibration) for t in TOLERANCES}
        self.errors: dict[str, list[ToleranceError]] = {stage: [] for stage in STAGES}
        self.spectral_ratios: list[float] = []

    def run_structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        on_step: OnStep,
    ) -> State:
        def run(policy: StepPolicy | None = None) -> State:
            return sample_structure(flow, condition, noise, settings, policy)

        interval, exact = guided_interval(settings), run()
        for tolerance, preset in self.presets.items():
            latents = run(preset.structure_policy(interval))
            error = ToleranceError(tolerance, relative_error(latents, exact))
            self.errors["structure"].append(error)
        return exact

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
        def run(policy: StepPolicy | None = None) -> State:
            return {
                LATENTS: sample_slat(
                    flow, condition, voxels, noise, settings, policy, aligned=aligned
                )
            }

        interval, voxels = guided_interval(settings), choice.voxels
        blocks, exact = ancestors(voxels, len(flow.config.io_channels)), run()
        for tolerance, preset in self.presets.items():
            latents = run(preset.slat_policy(interval, choice.scores, blocks))
            error = ToleranceError(tolerance, relative_error(latents, exact))
            self.errors["slat"].append(error)
        if choice.spectral_ratio is not None:
            self.spectral_ratios.append(choice.spectral_ratio)
        return exact[LATENTS]


def run_tolerances(
    lifter: Lifter,
    cases: Sequence[Case],
    calibration: ModelCalibration,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> ToleranceSampler:
    """Every tolerance on these objects. Those in which nothing is found have no second stage.

    Args:
        lifter: whose flows are run; nothing is decoded.
        cases: the objects.
        calibration: of the tolerances, in place of the lifter's own.
        seed: seed of the noise.
        progress: called before each object.
    """
    sampler = ToleranceSampler(calibration)
    config = replace(lifter.config, decoders=())
    for case in cases:
        progress()
        try:
            lift_case(lifter, case, config, sampler, seed)
        except LociError:  # mostly: no voxel above threshold
            continue
    return sampler


def tolerance_preset(tolerance: float, calibration: ModelCalibration) -> Preset:
    """Both flows with a tolerance; the scale is 1 where there is no calibration."""
    return Preset(
        f"tolerance {tolerance:g}",
        structure=StepCacheConfig(
            layout=LAYOUT_LATENTS,
            tolerance=tolerance,
            calibration=calibration.structure or ErrorScale(),
        ),
        slat=TokenCacheConfig(tolerance=tolerance, calibration=calibration.slat or ErrorScale()),
    )


def fit_calibration(sampler: ToleranceSampler, old: ModelCalibration) -> ModelCalibration:
    """The calibration of both flows and of decoding. A flow that skips nothing at any tolerance
    has none; what belongs to walks stays as in `old`.

    Raises:
        LociError: when nothing was found in any picture.
    """
    if not sampler.spectral_ratios:
        raise LociError("no object can be lifted, expected a trained model")
    scales: dict[str, Any] = {stage: fit_scale(sampler.errors[stage]) for stage in STAGES}
    thresholds = fit_thresholds(torch.tensor(sampler.spectral_ratios))
    return replace(old, decoding=thresholds, **scales)
