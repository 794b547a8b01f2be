"""The plot of the study of labels: a dot for every seed, means with their 95 % intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loci.bench.objects.speed_plot import check_drawable as check_drawable
from loci.io.files import replacing

PANELS = {
    "both_wrong": "wrong among certain labels",
    "turns": "turns obeyed",
    "sideways": "steps aside obeyed",
    "still_pixels": "pixels moved standing still",
    "psnr": "PSNR of next frames, dB",
}


def draw(path: Path, results: dict[str, Any]) -> None:
    """Write a PNG with a panel for each of `PANELS`, and a row for each arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.8), layout="constrained")
    arms = list(results["arms"])
    for axes, (key, title) in zip(
        figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True
    ):
        for row, arm in enumerate(arms):
            found = results["arms"][arm]
            mean, interval = found["mean"][key], found["interval"].get(key)
            seeds = [run[key] for run in results["runs"] if run["arm"] == arm]
            axes.scatter(seeds, [row] * len(seeds), s=14, color="tab:grey")
            reach = None if interval is None else [[mean - interval[0]], [interval[1] - mean]]
            axes.errorbar(mean, row, xerr=reach, fmt="o", color="tab:blue", capsize=4)
        if key in results["engine"]:
            axes.axvline(results["engine"][key], color="tab:green", linewidth=0.8)
        axes.set_title(title, fontsize="small")
        axes.set_yticks(range(len(arms)), arms)
        axes.grid(axis="x", linewidth=0.3)
    figure.axes[0].invert_yaxis()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)
