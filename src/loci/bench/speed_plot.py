"""Speed-up against loss, a point for every method; those that no other beats are joined."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.files import replacing

Points = list[tuple[float, float]]


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
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for name, row in rows.items():
        if row["speedup"] is not None and row["fscore"] is not None:
            place = row["speedup"], exact - row["fscore"]
            groups.setdefault(row["group"], {})[name] = place
    for group, places in groups.items():
        axes.scatter(*zip(*places.values(), strict=True), label=group, s=24)
        for name, place in places.items():
            axes.annotate(name, place, (4, 4), textcoords="offset points", fontsize="xx-small")
    edge = frontier([place for places in groups.values() for place in places.values()])
    axes.plot(*zip(*edge, strict=True), color="grey", linewidth=0.8, zorder=0)
    axes.set(xlabel="times as fast as exact", ylabel="F-score lost, points (less is better)")
    axes.invert_yaxis()
    axes.legend(fontsize="x-small")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)


def frontier(points: Points) -> Points:
    """The points that no other is both faster and better than, by rising speed."""
    kept: Points = []
    for speedup, loss in sorted(points, key=lambda point: (-point[0], point[1])):
        if not kept or loss < kept[-1][1]:
            kept.append((speedup, loss))
    return kept[::-1]
