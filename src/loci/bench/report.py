"""Tables, JSON files, means over seeds, and the sizes of the full and quick benchmarks."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.io.files import replacing

FULL_TURN = 48
"""Frames of a full turn in Doom, as in `loci.envs.doom.engine`, which imports torch."""
Cell = str | int | float | None


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A plain-text table, numbers flush right; None is a dash."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    numeric = [all(not isinstance(row[i], str) for row in rows) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        columns = zip(row, widths, numeric, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, cells)])


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write the whole file or nothing; numbers that are not finite become null.

    Raises:
        LociError: when `path` cannot be written.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(_plain(results), indent=2) + "\n", encoding="utf-8")


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b; None where either is missing or b is zero."""
    return None if a is None or not b else a / b


def difference(a: float | None, b: float | None) -> float | None:
    """a - b; None where either is missing."""
    return None if a is None or b is None else a - b


def mean_over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result from several of the same form.

    Numbers are averaged, missing ones left out; anything else that differs becomes a list.
    """
    return _merged(list(runs))


def confidence_intervals(
    runs: Sequence[dict[str, Any]], keys: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of the mean (Student's t) of each figure that two or more runs have."""
    from scipy.stats import t

    intervals = {}
    for key in keys:
        values = [run[key] for run in runs if run.get(key) is not None]
        if len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
            half = float(t.ppf(0.975, len(values) - 1)) * error
            mean = statistics.fmean(values)
            intervals[key] = (mean - half, mean + half)
    return intervals


def _merged(values: list[Any]) -> Any:
    first = values[0]
    if all(value == first for value in values):
        return first
    if all(isinstance(value, dict) for value in values):
        return {key: _merged([value.get(key) for value in values]) for key in first}
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) for value in known):
        return statistics.fmean(known)
    return values


def _text(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1 else f"{cell:.2f}"
    return str(cell)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class DriftPlan:
    """How drift is measured.

    Args:
        frames: length of a free walk. It goes out and back, so its late frames should show the
            places of its early ones.
        early: the first and last early frame, for the drift ratio.
        late: the same for late frames; as many.
        first: frames at the start that are compared with the engine's of the same walk.
        last: the same at the end.
        still: frames of standing still.
    """

    frames: int = 1024
    early: tuple[int, int] = (50, 174)
    late: tuple[int, int] = (900, 1024)
    first: int = 64
    last: int = 124
    still: int = 200


@dataclass(frozen=True)
class MemoryPlan:
    """How much `loci bench memory` measures.

    Args:
        lengths: lengths of the trials, in actions.
        maps: how many held-out maps.
        drift: the free walks.
        alive: lengths in frames at which long walks are compared with their beginning; one walk
            of the greatest length serves all.
        pictures: how many start pictures the long walks have.

    Raises:
        LociError: when there is nothing to measure, or a length is too short.
    """

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    maps: int = 3
    drift: DriftPlan = field(default_factory=DriftPlan)
    alive: tuple[int, ...] = (4096,)
    pictures: int = 3

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) <= FULL_TURN:
            text = " ".join(map(str, self.lengths)) or "none"
            raise LociError(f"--lengths: {text}, expected more than {FULL_TURN} actions each")
        for name, count in (("--maps", self.maps), ("--pictures", self.pictures)):
            if count < 1:
                raise LociError(f"{name}: {count}, expected at least 1")
        if self.alive and min(self.alive) < MIN_LONG_WALK:
            text = " ".join(map(str, self.alive))
            raise LociError(f"--alive: {text}, expected {MIN_LONG_WALK} frames or more each")


MIN_LONG_WALK = 16
QUICK = MemoryPlan(
    lengths=(64, 128),
    maps=2,
    drift=DriftPlan(frames=192, early=(16, 79), late=(129, 192), last=64, still=48),
    alive=(),
)


@dataclass(frozen=True)
class ObjectPlan:
    """How much `loci bench objects` measures.

    Args:
        objects: how many held-out objects; all if None.
        views: how many unseen views of each are compared.
        retrievable: how many views of each training object can be retrieved.
    """

    objects: int | None = None
    views: int = 4
    retrievable: int = 16


QUICK_OBJECTS = ObjectPlan(objects=12, views=2, retrievable=2)


@dataclass(frozen=True)
class SpeedPlan:
    """How much `loci bench speed` measures.

    Args:
        objects: how many held-out objects every method lifts; all if None.
        views: how many unseen views of each are compared.
        tolerance_objects: number of objects on which the error tolerances are tested.
    """

    objects: int | None = 32
    views: int = 4
    tolerance_objects: int = 12


QUICK_SPEED = SpeedPlan(objects=2, views=2, tolerance_objects=2)
