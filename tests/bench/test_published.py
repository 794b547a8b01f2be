"""Shares of the matrix product's rate, on parts small enough for a test."""

import json

import pytest
import torch

from loci.bench import published as bench
from loci.bench.published import PRODUCT, Share, measure, published, structure_operations
from loci.bench.published_parts import Part, shell, slat_flow
from loci.errors import LociError
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig

ROWS, INNER, COLUMNS = PRODUCT


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bench, "PRODUCT_SECONDS", 0.02)


def test_the_share_of_the_product_itself_is_about_one():
    a, b = torch.randn(ROWS, INNER).bfloat16(), torch.randn(INNER, COLUMNS).bfloat16()
    result = measure(Part("itself", lambda: a @ b), torch.bfloat16)
    assert result.operations == 2 * ROWS * INNER * COLUMNS
    assert 0.4 < result.share < 2.5  # other work on the machine changes rates from call to call
    assert result.kinds["products"] > 0.9
    assert sum(result.kinds.values()) == pytest.approx(1)


def test_time_beside_products_lowers_the_share():
    a, b = torch.randn(ROWS, INNER).bfloat16(), torch.randn(INNER, COLUMNS).bfloat16()

    def call():
        for _ in range(20):
            torch.randn(2**20)
        return a @ b

    result = measure(Part("with noise", call), torch.bfloat16)
    assert result.share < 0.8
    assert result.kinds["other"] > 0.2


def test_results_are_written_after_each_part(tmp_path, monkeypatch, capsys):
    a = torch.randn(64, 64)

    def broken():
        raise RuntimeError

    made = {"one": lambda: Part("first", lambda: a @ a), "two": broken}
    monkeypatch.setattr(bench, "makers", lambda dtype, layers: made)
    with pytest.raises(RuntimeError):
        published(tmp_path / "r.json", "float32", rounds=1)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["parts"]["one"]["operations"] == 2 * 64**3
    published(tmp_path / "r.json", "float32", rounds=1, only=("one",))
    assert "first" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [{"layers": 0}, {"layers": 25}, {"rounds": 0}, {"only": ("nothing",)}]
)
def test_bad_input(tmp_path, arguments):
    with pytest.raises(LociError, match=r"^--"):
        published(tmp_path / "r.json", **arguments)


def test_a_rate_is_operations_a_second():
    assert Share("", 6.0, 2.0).rate == 3.0


@pytest.mark.parametrize("count", [500, 10_000, 20_000])
def test_a_shell_has_that_many_voxels(count):
    coords = shell(count).coords
    assert coords.shape == (count, 4)
    assert coords[:, 1:].min() >= 0
    assert coords[:, 1:].max() < 64


def test_counted_operations_agree_with_the_formula(monkeypatch):
    config = StructureFlowConfig(blocks=2, resolution=4, dim=64, condition_dim=32, heads=2)
    flow = StructureFlow(config)
    monkeypatch.setattr(bench, "CONDITION_TOKENS", 100)
    context = flow.context(torch.randn(1, 100, 32))
    time = torch.zeros(1)
    with torch.no_grad():
        counted = bench.profiled(lambda: flow.velocity(flow.noise(), time, context)).operations
    assert counted == pytest.approx(structure_operations(config), rel=0.15)
    assert counted > structure_operations(config)  # the layout's tokens, and what is outside


def test_a_slat_flow_is_evaluated():
    velocity = slat_flow(torch.bfloat16, 1, 60).call()
    assert isinstance(velocity, torch.Tensor)
    assert velocity.shape == (60, 8)
