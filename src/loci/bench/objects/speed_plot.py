"""The plot of speed-up against loss: a point for every method, the Pareto frontier as a line.

Only the points on the frontier and the presets have their names, and the fastest point of a group
that has neither; the table has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from loci.errors import LociError, install_hint
from loci.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Points = list[tuple[float, float]]
NamedPoints = dict[str, tuple[float, float]]
PRESETS = ("exact", "fast", "faster", "released", "paper")


def check_drawable() -> None:
    """Raises LociError when matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise LociError(f"plots need matplotlib: {install_hint('bench')}") from error


def draw(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a PNG: speed-up over exact on x, F-score lost (points of 100) on y.

    Rows without a speed-up or an F-score are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    exact = rows["exact"]["fscore"]
    groups: dict[str, NamedPoints] = {}
    for name, row in rows.items():
        if row["speedup"] is not None and row["fscore"] is not None:
            point = row["speedup"], exact - row["fscore"]
            groups.setdefault(row["group"], {})[name] = point
    frontier = pareto_frontier([p for points in groups.values() for p in points.values()])
    for group, points in groups.items():
        axes.scatter(*zip(*points.values(), strict=True), label=group, s=24)
        for number, name in enumerate(labelled(points, frontier)):
            _label(axes, name, points[name], 1 if number % 2 else -1)
    axes.plot(*zip(*frontier, strict=True), color="grey", linewidth=0.8, zorder=0)
    axes.set(xlabel="speed-up over exact", ylabel="F-score lost, points (less is better)")
    axes.set_xlim(0.8, 1.15 * max(x for x, _ in frontier))
    axes.invert_yaxis()
    axes.legend(fontsize="x-small")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)


def labelled(points: NamedPoints, frontier: Points) -> list[str]:
    """Which of a group's points get their names, by rising speed."""
    chosen = {n for n, point in points.items() if n in PRESETS or point in frontier}
    if not chosen:
        chosen = {max(points, key=lambda name: points[name][0])}
    return sorted(chosen, key=lambda name: points[name])


def _label(axes: Axes, name: str, point: tuple[float, float], side: int) -> None:
    """Above a point or below it, in short lines that stay apart."""
    axes.annotate(
        fill(name, 16),
        point,
        (0, 7 * side),
        textcoords="offset points",
        fontsize="xx-small",
        ha="center",
        va="bottom" if side > 0 else "top",
    )


def pareto_frontier(points: Points) -> Points:
    """The points (speed-up, loss) that no other beats in both, by rising speed."""
    best: Points = []
    for speedup, loss in sorted(points, key=lambda point: (-point[0], point[1])):
        if not best or loss < best[-1][1]:
            best.append((speedup, loss))
    return best[::-1]
