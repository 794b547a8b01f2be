"""Results of the study of revisits: means over seeds, gains over wandering, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loci.bench.report import confidence_intervals, mean_over_seeds, table


def means(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and 95 % intervals of each arm over its seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["addressing"], run["source"], run["sequences"]), []).append(run)
    result = []
    for group in groups.values():
        figures = [key for key, value in group[0].items() if isinstance(value, float)]
        mean = mean_over_seeds(group)
        result.append(mean | {"intervals": confidence_intervals(group, figures)})
    return result


def differences(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What revisit-dense sequences have over as many wandering ones of the same seed: means and
    95 % intervals over the seeds."""
    pairs: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for run in runs:
        key = run["addressing"], run["sequences"], run["seed"]
        pairs.setdefault(key, {})[run["source"]] = run
    gains: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for (addressing, sequences, _), pair in pairs.items():
        if {"revisit", "wander"} <= pair.keys():
            revisit, wander = pair["revisit"], pair["wander"]
            figures = [k for k, v in revisit.items() if isinstance(v, float)]
            gain = {k: revisit[k] - wander[k] for k in figures if wander[k] is not None}
            gains.setdefault((addressing, sequences), []).append(gain)
    return [
        {"addressing": addressing, "sequences": sequences, **mean_over_seeds(group)}
        | {"intervals": confidence_intervals(group, list(group[0]))}
        for (addressing, sequences), group in gains.items()
    ]


def describe(results: dict[str, Any]) -> str:
    """The means, and what revisits gain over wandering, as tables."""
    means, gains = results["means"], results["differences"]
    keys = [key for key in means[0] if key.startswith(("seen_", "empty_", "new_", "found_"))]
    headers = ["addressing", "source", "sequences", *keys]
    text = table(headers, [[row[name] for name in headers] for row in means])
    keys = [key for key in keys if not key.startswith("empty_")]
    rows = [
        [row["addressing"], row["sequences"], *(_with_interval(row, key) for key in keys)]
        for row in gains
    ]
    headers = ["revisit less wander", "sequences", *keys]
    return f"{text}\n\n{table(headers, rows)}" if rows else text


def _with_interval(row: dict[str, Any], key: str) -> str | None:
    if row.get(key) is None:
        return None
    ends = row["intervals"].get(key)
    half = "" if ends is None else f" +- {(ends[1] - ends[0]) / 2:.2f}"
    return f"{row[key]:+.2f}{half}"
