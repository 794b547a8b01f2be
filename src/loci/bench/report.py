"""What a benchmark leaves behind: a table to read and a JSON file to compare."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loci.envs.doom.engine import FULL_TURN
from loci.errors import LociError
from loci.io.files import replacing

Cell = str | int | float | None


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Columns in plain text, numbers flush right; None is a dash."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    numeric = [all(not isinstance(row[i], str) for row in rows) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        parts = zip(row, widths, numeric, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in parts).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, cells)])


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write whole or not at all; what is not a finite number becomes null.

    Raises:
        LociError: when `path` cannot be written.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(_plain(results), indent=2) + "\n", encoding="utf-8")


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, None where either is missing or b is zero."""
    return None if a is None or not b else a / b


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
    """A free walk, and which of its frames (first and last) count as early and as late.

    Both have the same number of frames. The walk is out and back, so the late frames ought to show
    the places of the early ones. `still` frames are generated standing still.
    """

    frames: int = 1024
    early: tuple[int, int] = (50, 174)
    late: tuple[int, int] = (900, 1024)
    still: int = 200


@dataclass(frozen=True)
class MemoryPlan:
    """Lengths of the trials in actions, and how many held-out maps they go through.

    Raises:
        LociError: when there is none, or a length leaves nothing to see again after a full turn.
    """

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    maps: int = 3
    drift: DriftPlan = field(default_factory=DriftPlan)

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) <= FULL_TURN:
            text = " ".join(map(str, self.lengths)) or "none"
            raise LociError(f"--lengths: {text}, expected more than {FULL_TURN} actions each")
        if self.maps < 1:
            raise LociError(f"--maps: {self.maps}, expected at least 1")


QUICK = MemoryPlan(
    lengths=(64, 128),
    maps=2,
    drift=DriftPlan(frames=192, early=(16, 79), late=(129, 192), still=48),
)


@dataclass(frozen=True)
class ObjectPlan:
    """How many held-out objects (None: all of them), how many views of each that were not shown are
    compared, and how many views of every training object are there to be retrieved."""

    objects: int | None = None
    views: int = 4
    retrievable: int = 16


QUICK_OBJECTS = ObjectPlan(objects=12, views=2, retrievable=2)


@dataclass(frozen=True)
class SpeedPlan:
    """How many held-out objects every method lifts (None: all of them), how many views of each that
    were not shown are compared, and on how many objects the error budget is tried."""

    objects: int | None = 32
    views: int = 4
    budget: int = 12


QUICK_SPEED = SpeedPlan(objects=2, views=2, budget=2)
