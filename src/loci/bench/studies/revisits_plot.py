"""Draws the study of revisits: recall against the number of sequences, and against time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loci.io.files import replacing

COLORS = {"none": "0.5", "wander": "tab:orange", "revisit": "tab:blue"}
NAMES = {
    "none": "base: wandering only",
    "wander": "finetuned on wandering",
    "revisit": "finetuned on revisit-dense",
}


def draw_revisits(results: dict[str, Any], path: Path) -> None:
    """Two panels, with 95 % intervals over the seeds.

    Args:
        results: of `loci bench study-revisits`.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    rows, span = results["means"], results["span"]
    age = min(_ages(rows[0]), key=lambda frames: abs(frames - span))
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    counts, addressing = figure.subplots(1, 2)
    posed = [row for row in rows if row["addressing"] == "poses"]
    for source in ("wander", "revisit"):
        some = sorted((r for r in posed if r["source"] == source), key=lambda r: r["sequences"])
        _line(counts, some, [r["sequences"] for r in some], f"seen_{age}", source)
    for row in (r for r in posed if r["source"] == "none"):
        counts.axhline(row[f"seen_{age}"], color=COLORS["none"], label=NAMES["none"])
    counts.set(xscale="log", xlabel="sequences", title=f"addressed by poses, {age} frames")
    counts.set_ylabel("PSNR of views seen before, dB")
    counts.legend(fontsize="x-small")
    most = max(row["sequences"] for row in posed)
    for row in rows:
        if row["sequences"] in (0, most):
            _over_time(addressing, row, row["source"], "-" if row in posed else ":")
    addressing.axvline(span, color="0.8", zorder=0)
    addressing.set(title=f"poses (solid), time (dotted), {most}")
    addressing.set(xscale="log", xlabel="frames since it was seen, at most")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _line(
    panel: Any, rows: Sequence[dict[str, Any]], at: Sequence[float], key: str, source: str
) -> None:
    values = [row[key] for row in rows]
    ends = [row["intervals"].get(key, (row[key], row[key])) for row in rows]
    below = [value - end[0] for value, end in zip(values, ends, strict=True)]
    panel.errorbar(at, values, below, color=COLORS[source], label=NAMES[source], capsize=2)


def _over_time(panel: Any, row: dict[str, Any], source: str, style: str) -> None:
    ages = _ages(row)
    keys = [f"seen_{age}" for age in ages]
    values = [row[key] for key in keys]
    panel.plot(ages, values, style, color=COLORS[source], marker=".")
    ends = [row["intervals"].get(key) for key in keys]
    if all(ends):
        panel.fill_between(ages, *zip(*ends, strict=True), color=COLORS[source], alpha=0.15)


def _ages(row: dict[str, Any]) -> list[int]:
    """The lengths of history that a row has figures for, in frames."""
    return [int(key.removeprefix("seen_")) for key in row if key.startswith("seen_")]
