"""Tables and result files."""

import json
import math
from pathlib import Path

import pytest

from loci.bench.report import (
    FULL_TURN,
    confidence_intervals,
    difference,
    mean_over_seeds,
    ratio,
    table,
    write_json,
)
from loci.envs.doom import engine
from loci.errors import LociError


def test_trials_are_longer_than_the_full_turn_of_the_engine() -> None:
    assert FULL_TURN == engine.FULL_TURN


def test_a_table_lines_up() -> None:
    lines = table(["walk", "dB"], [["spin 64", 23.456], ["all", None]]).splitlines()
    assert lines == ["walk        dB", "-------  -----", "spin 64  23.46", "all          -"]


def test_json_has_null_for_what_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_json(path, {"a": math.nan, "b": (1, 2.5), "3": {"c": None}})
    assert json.loads(path.read_text()) == {"a": None, "b": [1, 2.5], "3": {"c": None}}
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LociError, match=r"nowhere/out\.json"):
        write_json(tmp_path / "nowhere" / "out.json", {})


def test_ratios_of_nothing_are_none() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(1.0, 0.0) is None
    assert difference(3.0, 2.0) == 1.0
    assert difference(3.0, None) is None


def test_results_of_several_seeds_are_averaged() -> None:
    runs = [
        {"seed": 0, "dB": 20.0, "by": {"a": 1.0, "b": None}, "notes": ["x"], "maps": [1, 3]},
        {"seed": 1, "dB": 24.0, "by": {"a": None, "b": None}, "notes": ["x"], "maps": [5, 7]},
    ]
    assert mean_over_seeds(runs) == {
        "seed": 0.5,
        "dB": 22.0,
        "by": {"a": 1.0, "b": None},
        "notes": ["x"],
        "maps": [[1, 3], [5, 7]],
    }
    assert mean_over_seeds(runs[:1]) == runs[0]


def test_intervals_are_those_of_students_t() -> None:
    pytest.importorskip("scipy")
    runs = [{"a": 1.0, "b": None}, {"a": 2.0, "b": 3.0}, {"a": 3.0}]
    found = confidence_intervals(runs, ("a", "b", "c"))
    assert found == {
        "a": pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), rel=1e-3)
    }
