"""The log of a training run as a picture: one small panel for every figure in it."""

import json
import math
from pathlib import Path

from loci.io.files import replacing

COLUMNS = 4
CLOCK = {"step", "seconds", "final"}


def draw_panels(log: Path, image: Path) -> None:
    """Every logged value over the minutes of training; those with few points, with dots."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys(key for record in records for key in record if key not in CLOCK))
    rows = max(1, math.ceil(len(names) / COLUMNS))
    figure = Figure(figsize=(2.6 * COLUMNS, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel, name in zip(panels, names, strict=False):
        points = [(r["seconds"] / 60, r[name]) for r in records if name in r]
        panel.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None)
        panel.set_title(name, fontsize="small")
        panel.tick_params(labelsize="x-small")
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    with replacing(image) as part:
        figure.savefig(part, format="png", dpi=100)
