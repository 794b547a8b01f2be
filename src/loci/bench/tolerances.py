"""What an error tolerance means for a model: its calibration, and how well it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from loci.bench.report import table

if TYPE_CHECKING:
    from loci.acceleration.error_budget import ErrorScale


class ToleranceError(NamedTuple):
    """The tolerance of a run, and its true error."""

    tolerance: float
    error: float


def fit_scale(errors: Sequence[ToleranceError]) -> ErrorScale | None:
    """The scale between predicted and true errors; None where there is too little to fit: no
    errors, or all with one tolerance."""
    from loci.acceleration.error_budget import fit_error_scale

    try:
        return fit_error_scale([e.tolerance for e in errors], [e.error for e in errors])
    except ValueError:
        return None


def tolerance_report(
    calibration: dict[str, float] | None, errors: Sequence[ToleranceError]
) -> dict[str, Any]:
    """A calibration, and the held-out errors under it by tolerance: their mean, the 90th
    percentile, and the share within the tolerance."""
    rows = []
    for tolerance in sorted({e.tolerance for e in errors}):
        at_tolerance = np.array([e.error for e in errors if e.tolerance == tolerance])
        rows.append(
            {
                "tolerance": tolerance,
                "mean_error": float(at_tolerance.mean()),
                "error_90th_percentile": float(np.quantile(at_tolerance, 0.9)),
                "share_within": float((at_tolerance <= tolerance).mean()),
            }
        )
    return {"calibration": calibration, "held_out": rows}


def tolerance_table(reports: Mapping[str, dict[str, Any]]) -> list[str]:
    """Lines of text with a row for every stage and tolerance; none without reports."""
    keys = ("tolerance", "mean_error", "error_90th_percentile", "share_within")
    rows = [
        [stage, *(line[key] for key in keys)]
        for stage, report in reports.items()
        for line in report["held_out"]
    ]
    head = ["stage", "tolerance", "mean error", "90th percentile", "share within"]
    return [table(head, rows), ""] if rows else []
