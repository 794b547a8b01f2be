"""Speed-up against loss, a point for every method; those that no other beats are joined.

Fifty names over one another tell nothing: named are the corners of that line, the named speeds, and
the fastest of a group that has neither; the table has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from loci.errors import LociError
from loci.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Points = list[tuple[float, float]]
Places = dict[str, tuple[float, float]]
PRESETS = ("exact", "fast", "faster", "released", "paper")


def check_drawable() -> None:
    """Raises LociError when there is nothing to draw with."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise LociError("plots need matplotlib: pip install 'genius-loci[bench]'") from error


def draw(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """A PNG: across, how many times as fast as exact; down, F-score lost, in points of 100.

    Rows without a speed-up or an F-score are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    exact = rows["exact"]["fscore"]
    groups: dict[str, Places] = {}
    for name, row in rows.items():
        if row["speedup"] is not None and row["fscore"] is not None:
            place = row["speedup"], exact - row["fscore"]
            groups.setdefault(row["group"], {})[name] = place
    edge = frontier([place for places in groups.values() for place in places.values()])
    for group, places in groups.items():
        axes.scatter(*zip(*places.values(), strict=True), label=group, s=24)
        for number, name in enumerate(named(places, edge)):
            _name(axes, name, places[name], 1 if number % 2 else -1)
    axes.plot(*zip(*edge, strict=True), color="grey", linewidth=0.8, zorder=0)
    axes.set(xlabel="times as fast as exact", ylabel="F-score lost, points (less is better)")
    axes.set_xlim(0.8, 1.15 * max(x for x, _ in edge))
    axes.invert_yaxis()
    axes.legend(fontsize="x-small")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)


def named(places: Places, edge: Points) -> list[str]:
    """Which of a group's points get their names, by rising speed."""
    chosen = {n for n, place in places.items() if n in PRESETS or place in edge}
    if not chosen:
        chosen = {max(places, key=lambda name: places[name][0])}
    return sorted(chosen, key=lambda name: places[name])


def _name(axes: Axes, name: str, place: tuple[float, float], side: int) -> None:
    """Above a point or below it, in lines short enough to stay apart."""
    axes.annotate(
        fill(name, 16),
        place,
        (0, 7 * side),
        textcoords="offset points",
        fontsize="xx-small",
        ha="center",
        va="bottom" if side > 0 else "top",
    )


def frontier(points: Points) -> Points:
    """The points that no other is both faster and better than, by rising speed."""
    kept: Points = []
    for speedup, loss in sorted(points, key=lambda point: (-point[0], point[1])):
        if not kept or loss < kept[-1][1]:
            kept.append((speedup, loss))
    return kept[::-1]
