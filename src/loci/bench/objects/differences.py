"""How the scores of two measurements of the same objects differ, with intervals by object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from loci.bench.objects.metrics import MEDIANS, METRICS
from loci.bench.report import table
from loci.errors import LociError

RESAMPLES = 2000


class Difference(NamedTuple):
    """Of a summary (mean, or median of rotation errors): this less the earlier one, and the ends of
    its 95 % interval, by drawing the objects anew in pairs."""

    value: float
    low: float
    high: float


def differences(
    rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]], column: str
) -> dict[str, Difference]:
    """The difference of every score of a column.

    Args:
        rows: of every object its `name`, `view` and, under `column`, its scores by name; None and
            NaN are none.
        earlier: likewise.
        column: such as `with_pointmap`.

    Raises:
        LociError: when they are not of the same objects and views, or one lacks the column.
    """
    keyed = [{(row["name"], row["view"]): row for row in some} for some in (rows, earlier)]
    if keyed[0].keys() != keyed[1].keys():
        both = len(keyed[0].keys() & keyed[1].keys())
        raise LociError(
            f"earlier results: {both} of {len(keyed[0])} objects are the same, expected all of them"
        )
    if any(column not in row for some in keyed for row in some.values()):
        raise LociError(f"earlier results: no {column}, expected the results of this command")
    drawn = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    found = {}
    for name in METRICS:
        new, old = (
            np.array([_number(some[key][column][name]) for key in keyed[0]]) for some in keyed
        )
        summary = np.nanmedian if name in MEDIANS else np.nanmean
        resampled = summary(new[drawn], axis=1) - summary(old[drawn], axis=1)
        low, high = np.nanpercentile(resampled, (2.5, 97.5))
        found[name] = Difference(float(summary(new) - summary(old)), float(low), float(high))
    return found


def describe_differences(found: Mapping[str, Mapping[str, Difference]]) -> str:
    """A table of all columns as text."""
    columns = list(found)
    rows = [[name, *(_shown(found[column][name]) for column in columns)] for name in METRICS]
    return table(["less the earlier results", *columns], rows)


def plain_differences(found: Mapping[str, Mapping[str, Difference]]) -> dict[str, Any]:
    """The same for a JSON file."""
    return {
        column: {name: list(one) for name, one in by_name.items()}
        for column, by_name in found.items()
    }


def rows_of(results: Any, path: object) -> list[Mapping[str, Any]]:
    """The objects of earlier results. Raises LociError when there are none."""
    rows = results.get("by_object") if isinstance(results, dict) else None
    if not isinstance(rows, list) or not rows or not all(_is_row(row) for row in rows):
        raise LociError(f"{path}: no objects, expected results of loci bench objects")
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and {"name", "view"} <= row.keys()


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _shown(one: Iterable[float]) -> str:
    value, low, high = one
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
