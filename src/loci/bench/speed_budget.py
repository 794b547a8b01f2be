"""Does the error budget mean what it says? Tolerances against true errors, of both flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from loci.acceleration.budget import Calibration, calibrate, relative_error
from loci.acceleration.laws import Laws
from loci.acceleration.spectral import DecodingConfig
from loci.acceleration.speeds import LAYOUT, Speed
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_budget import TokenBudgetConfig
from loci.bench.objects_cases import Case
from loci.bench.speed_runs import lifted
from loci.errors import LociError
from loci.flow.policy import State, StepPolicy
from loci.objects.latent_flow import LatentFlow
from loci.objects.latent_sampling import LATENTS, LatentSampling, sample_latents
from loci.objects.lifter import Lifter
from loci.objects.pace import OnStep, Pace, guided_interval, tokens_of
from loci.objects.structure_flow import StructureFlow
from loci.objects.structure_sampling import StructureSampling, sample_structure
from loci.objects.voxel_choice import VoxelChoice

TOLERANCES = (0.01, 0.02, 0.04, 0.08, 0.16)
STAGES = ("structure", "latents")

Pairs = list[tuple[float, float]]
"""The tolerance and the true error of every run."""


class Tried(Pace):
    """Runs every flow exactly and, beside it, at every tolerance; goes on with what is exact.

    So all tolerances meet the same noise and the same voxels, and exact runs once. Errors are
    collected over all objects, as are the spectral ratios of those that were found.
    """

    def __init__(self, laws: Laws) -> None:
        super().__init__(Speed("tried", decoding=DecodingConfig("loci")))
        self.speeds = {tolerance: budgeted(tolerance, laws) for tolerance in TOLERANCES}
        self.pairs: dict[str, Pairs] = {stage: [] for stage in STAGES}
        self.details: list[float] = []

    def structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        tell: OnStep,
    ) -> State:
        def run(policy: StepPolicy | None = None) -> State:
            return sample_structure(flow, condition, noise, settings, policy)

        interval, exact = guided_interval(settings), run()
        for tolerance, speed in self.speeds.items():
            found = run(speed.structure_policy(interval))
            self.pairs["structure"].append((tolerance, relative_error(found, exact)))
        return exact

    def latents(
        self,
        flow: LatentFlow,
        condition: Float[Tensor, "1 m c"],
        choice: VoxelChoice,
        noise: Float[Tensor, "n c"],
        settings: LatentSampling,
        tell: OnStep,
        aligned: Float[Tensor, "n a"] | None = None,
    ) -> Float[Tensor, "n c"]:
        def run(policy: StepPolicy | None = None) -> State:
            found = sample_latents(
                flow, condition, voxels, noise, settings, policy, aligned=aligned
            )
            return {LATENTS: found}

        interval, voxels = guided_interval(settings), choice.voxels
        blocks, exact = tokens_of(voxels, len(flow.config.io_channels)), run()
        for tolerance, speed in self.speeds.items():
            found = run(speed.latent_policy(interval, choice.scores, blocks))
            self.pairs["latents"].append((tolerance, relative_error(found, exact)))
        if choice.detail is not None:
            self.details.append(choice.detail)
        return exact[LATENTS]


def tried(
    lifter: Lifter,
    cases: Sequence[Case],
    laws: Laws,
    seed: int,
    told: Callable[[str], None] = lambda name: None,
) -> Tried:
    """Every tolerance on these objects; those in which nothing is found have no second stage.

    Args:
        lifter: whose flows are run; nothing is decoded.
        cases: the objects.
        laws: under which the tolerances are tried, whatever those of the lifter are.
        seed: of the noise.
        told: called with an object's name before it is lifted.
    """
    found = Tried(laws)
    for case in cases:
        told(case.name)
        try:
            lifted(lifter, case, replace(lifter.config, decoders=()), found, seed)
        except LociError:  # mostly: no voxel above threshold
            continue
    return found


def budgeted(tolerance: float, laws: Laws) -> Speed:
    """Both flows with a tolerance, and the laws that say what it means."""
    one = Calibration()
    return Speed(
        f"tolerance {tolerance:g}",
        structure=StepCacheConfig(
            layout=LAYOUT, tolerance=tolerance, calibration=laws.structure or one
        ),
        latents=TokenBudgetConfig(tolerance=tolerance, calibration=laws.latents or one),
    )


def fitted(pairs: Pairs) -> Calibration | None:
    """None where there is too little to fit: no errors, or all at one tolerance."""
    try:
        return calibrate([p for p, _ in pairs], [t for _, t in pairs])
    except ValueError:
        return None


def error_budget(found: Tried, laws: Laws) -> dict[str, dict[str, Any]]:
    """By stage: its law, and what became of every tolerance."""
    known = asdict(laws)
    return {
        stage: {"law": known[stage], "held_out": shares(found.pairs[stage])} for stage in STAGES
    }


def shares(pairs: Pairs) -> list[dict[str, float]]:
    """For every tolerance the mean true error, the one that nine in ten are below, and the share
    of runs that kept within it."""
    lines = []
    for tolerance in sorted({p for p, _ in pairs}):
        errors = np.array([t for p, t in pairs if p == tolerance])
        lines.append(
            {
                "tolerance": tolerance,
                "error": float(errors.mean()),
                "error_9_in_10": float(np.quantile(errors, 0.9)),
                "kept": float((errors <= tolerance).mean()),
            }
        )
    return lines
