"""Tables and result files."""

import json
import math
from pathlib import Path

import pytest

from loci.bench.report import ratio, table, write_json
from loci.errors import LociError


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
