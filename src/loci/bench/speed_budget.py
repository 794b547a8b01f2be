"""Does the error budget mean what it says? Predicted against true error, before and after fitting.

The law between the two is fitted on training objects and tried on held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from loci.acceleration.budget import Calibration, calibrate
from loci.acceleration.ledger import Ledger
from loci.acceleration.speeds import LAYOUT, Speed
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_budget import TokenBudgetConfig
from loci.bench.objects_cases import Case
from loci.errors import LociError
from loci.objects.lifter import Lifter

TOLERANCES = (0.01, 0.02, 0.04, 0.08, 0.16)
STAGES = ("structure", "latents")

Pairs = dict[str, list[tuple[float, float]]]
"""By stage, the tolerance and the true error of every run."""


def error_budget(
    lifter: Lifter,
    train: Sequence[Case],
    held_out: Sequence[Case],
    seed: int,
    told: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, Any]]:
    """By stage: the fitted law, and for every tolerance what became of it on held-out objects.

    Args:
        lifter: whose flows are run, each once at a tolerance and once exactly.
        train: what the law is fitted on.
        held_out: what it is tried on.
        seed: of the noise.
        told: called before every object.
    """
    before = measured(lifter, train, {}, seed, told)
    laws = {stage: law for stage in STAGES if (law := fitted(before[stage])) is not None}
    after = measured(lifter, held_out, laws, seed, told)
    return {
        stage: {
            "law": asdict(laws[stage]) if stage in laws else None,
            "train_unfitted": shares(before[stage]),
            "held_out": shares(after[stage]),
        }
        for stage in STAGES
    }


def measured(
    lifter: Lifter,
    cases: Sequence[Case],
    laws: dict[str, Calibration],
    seed: int,
    told: Callable[[str], None] = lambda name: None,
) -> Pairs:
    """True errors at every tolerance, under these laws; of objects in which something is found."""
    pairs: Pairs = {stage: [] for stage in STAGES}
    for case in cases:
        told("error budget")
        for tolerance in TOLERANCES:
            ledger = Ledger()
            try:
                lifter(
                    *(case.pixels, case.mask, case.pointmap, seed),
                    speed=budgeted(tolerance, laws),
                    ledger=ledger,
                    verify=True,
                )
            except LociError:  # mostly: no voxel above threshold
                continue
            for stage in STAGES:
                error = max(ledger.entry(stage).errors.values())
                pairs[stage].append((tolerance, error))
    return pairs


def budgeted(tolerance: float, laws: dict[str, Calibration]) -> Speed:
    """Both flows with a tolerance, and the law that says what it means."""
    one = Calibration()
    return Speed(
        f"tolerance {tolerance:g}",
        structure=StepCacheConfig(
            layout=LAYOUT, tolerance=tolerance, calibration=laws.get("structure", one)
        ),
        latents=TokenBudgetConfig(tolerance=tolerance, calibration=laws.get("latents", one)),
    )


def fitted(pairs: Sequence[tuple[float, float]]) -> Calibration | None:
    """None where there is too little to fit: no errors, or all at one tolerance."""
    try:
        return calibrate([p for p, _ in pairs], [t for _, t in pairs])
    except ValueError:
        return None


def shares(pairs: Sequence[tuple[float, float]]) -> list[dict[str, float]]:
    """For every tolerance the mean true error, the one that nine in ten are below, and the share
    of runs that kept within it."""
    found = []
    for tolerance in sorted({p for p, _ in pairs}):
        errors = np.array([t for p, t in pairs if p == tolerance])
        found.append(
            {
                "tolerance": tolerance,
                "error": float(errors.mean()),
                "error_9_in_10": float(np.quantile(errors, 0.9)),
                "kept": float((errors <= tolerance).mean()),
            }
        )
    return found
