"""Options and settings of the test suite."""

import os
from pathlib import Path

# Threads that wait for each other by spinning take ten times longer beside a busy core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from .pretend_device import prepare

# No deadlines: a busy machine is not a failure. Derandomised: a failure can be run again.
settings.register_profile("loci", deadline=None, derandomize=True, database=None)
settings.load_profile("loci")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fixtures DIR`: where the parity tests find their reference fixtures.

    pytest has a switch of the same name, which lists pytest's own fixtures. It keeps its other
    name, `--funcargs`; argparse offers no public way to take an option string back.
    """
    pytests_own = parser.optparser._option_string_actions.pop("--fixtures")
    pytests_own.option_strings = [s for s in pytests_own.option_strings if s != "--fixtures"]
    parser.addoption(
        "--fixtures",
        dest="parity_fixtures",
        type=Path,
        default=Path(__file__).parent / "parity" / "fixtures",
        help="folder of reference fixtures for tests/parity",
    )


def pytest_configure(config: pytest.Config) -> None:
    """A folder without fixtures is a mistake: every parity test would be skipped in silence."""
    folder = config.option.parity_fixtures
    if not any(path.with_suffix(".safetensors").is_file() for path in folder.rglob("*.json")):
        raise pytest.UsageError(
            f"--fixtures {folder}: expected a folder with pairs of NAME.json and NAME.safetensors"
        )


def pytest_sessionstart() -> None:
    prepare()
