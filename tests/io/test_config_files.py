"""Configurations on disk: every value comes back, and what is wrong is named."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from loci.errors import LociError
from loci.io.config_files import load_config, save_config


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    rival: Inner | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    name: str = "x"
    kind: Literal["plain", "fancy"] = "plain"


def test_configurations_come_back_equal(tmp_path: Path) -> None:
    config = Outer(Inner((3,)), Inner(()), ((1, 2), (3, 4)), "y")
    save_config(tmp_path / "config.json", config)
    assert load_config(tmp_path / "config.json", Outer) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot read it"),
        ("[]", "expected a Outer"),
        ('{"config": "Inner"}', "expected a Outer"),
        ('{"size": 3}', "unknown field size"),
        ('{"kind": "odd"}', "'odd', expected 'plain' or 'fancy'"),
    ],
)
def test_wrong_configurations_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(LociError, match=said):
        load_config(tmp_path / "config.json", Outer)


@dataclass(frozen=True)
class Renamed:
    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("Former",)
    FORMER_FIELDS: ClassVar[dict[str, str]] = {"breadth": "width"}
    width: int = 0


@dataclass(frozen=True)
class Holder:
    FORMER_FIELDS: ClassVar[dict[str, str]] = {"one": "first"}
    first: Renamed | None = None
    more: tuple[Renamed, ...] = ()


def test_former_names_are_read_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"config": "Former", "breadth": 3}')
    assert load_config(path, Renamed) == Renamed(3)
    path.write_text('{"one": {"breadth": 1}, "more": [{"breadth": 2}, {"width": 4}]}')
    assert load_config(path, Holder) == Holder(Renamed(1), (Renamed(2), Renamed(4)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": 3}', '"name".*"str".*"3"'),
        ('{"inner": 3}', '"inner"'),
        ('{"pairs": [["a", 2]]}', '"pairs"'),
        ('{"rival": {"size": 3}}', "unknown field size"),
    ],
)
def test_values_of_another_type_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(LociError, match=f"not a valid Outer.*{said}"):
        load_config(tmp_path / "config.json", Outer)


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"name": "y"}', encoding="utf-8-sig")
    assert load_config(tmp_path / "config.json", Outer) == Outer(name="y")
