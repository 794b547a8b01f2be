"""Every command that a page shows is one that `loci` takes."""

import re
import shlex
from functools import wraps
from pathlib import Path

import pytest

import loci
from loci import cli

PACKAGE, ROOT = Path(loci.__file__).parent, Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((PACKAGE / "shipped").glob("*/README.md")),
    PACKAGE / "train" / "lifter_card.md",
]


def commands(page: str) -> list[str]:
    """The lines of fenced blocks that begin with `loci`, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("loci ")]


def listed() -> list:
    return [
        pytest.param(line, id=f"{page.parent.name}-{page.stem}-{number}")
        for page in PAGES
        for number, line in enumerate(commands(page.read_text(encoding="utf-8")))
    ]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that are parsed in full, and then only write down that they were called."""
    load, names = cli.Command.load, []

    def stub(command: cli.Command):
        function = load(command)

        @wraps(function)
        def noted(*given: object, **options: object) -> None:
            names.append(command.target)

        return noted

    monkeypatch.setattr(cli.Command, "load", stub)
    return names


@pytest.mark.parametrize("line", listed())
def test_a_command_shown_is_a_command_taken(line: str, called: list[str]) -> None:
    assert cli.main(shlex.split(line, comments=True)[1:]) == 0
    assert len(called) == 1


def test_a_wrong_command_would_be_seen(called: list[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["data", "objects", "there"])
    assert called == []


def test_commands_are_found_on_the_pages() -> None:
    block = "loci walk  # here\npip install x\nloci train \\\n  world\n"
    page = f"loci lift\n```\n{block}```\nloci data\n"
    assert commands(page) == ["loci walk  # here", "loci train    world"]
    assert len(listed()) > 20
