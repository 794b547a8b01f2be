"""No fixture is left out: an absent folder and an unknown kind are seen."""

import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_configure
from tests.parity.conftest import found


def marked_kinds() -> set[str]:
    """The kinds that a test in this folder is marked with."""
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    return set(re.findall(r'^@pytest\.mark\.kind\("(\w+)"\)', "\n".join(tests), re.MULTILINE))


def test_every_fixture_is_of_a_kind_that_is_checked(pytestconfig: pytest.Config) -> None:
    kinds = marked_kinds()
    unknown = {path.name: kind for path, kind in found(pytestconfig.option.parity_fixtures)}
    unknown = {name: kind for name, kind in unknown.items() if kind not in kinds}
    assert not unknown, f"fixtures that no test checks: {unknown}"


@pytest.mark.parametrize("name", ["nowhere", "", "lonely"])
def test_a_folder_without_fixtures_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "lonely").mkdir()
    (tmp_path / "lonely" / "a.json").write_text('{"kind": "a"}')
    config = SimpleNamespace(option=Namespace(parity_fixtures=tmp_path / name))
    with pytest.raises(pytest.UsageError, match="expected a folder with pairs"):
        pytest_configure(config)  # type: ignore
