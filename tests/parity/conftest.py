"""Finds reference fixtures: pairs of NAME.safetensors and NAME.json in and under `--fixtures DIR`.

Every test here takes `fixture` and is marked with the kind it checks; it runs once for each
fixture of that kind in the folder, and is skipped, with the reason, where there is none. A fixture
of a kind that no test is marked with fails test_fixtures.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Fixture:
    """A sidecar and its tensors: weights by published name, inputs and outputs by theirs."""

    name: str
    sidecar: dict
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def load(sidecar_path: Path) -> Fixture:
    tensors = load_file(sidecar_path.with_suffix(".safetensors"))

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    sidecar = json.loads(sidecar_path.read_text())
    parts = (under("weights/"), under("in/"), under("out/"))
    return Fixture(sidecar_path.stem, sidecar, *parts)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kind(name): the kind of fixture a parity test checks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fixture" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("kind")
    assert mark is not None, "a parity test must name the kind of fixture it checks"
    folder: Path = metafunc.config.option.parity_fixtures
    paths = [path for path, kind in found(folder) if kind == mark.args[0]]
    missing = pytest.param(
        None, marks=pytest.mark.skip(reason=f"no {mark.args[0]} fixture in {folder}"), id="none"
    )
    cases = [pytest.param(path, id=path.stem) for path in paths] or [missing]
    metafunc.parametrize("fixture", cases, indirect=True)


def found(folder: Path) -> list[tuple[Path, str | None]]:
    """The sidecars in a folder and under it, with their kinds."""
    return [(path, _kind(path)) for path in sorted(folder.rglob("*.json"))]


def _kind(sidecar: Path) -> str | None:
    content = json.loads(sidecar.read_text())
    return content.get("kind") if isinstance(content, dict) else None


@pytest.fixture
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return load(request.param)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """max |a - b| / max |b|; the shapes must agree."""
    assert ours.shape == reference.shape, f"{list(ours.shape)} != {list(reference.shape)}"
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield
