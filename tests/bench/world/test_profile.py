"""`loci bench walk-parts` on a tiny world."""

import copy

import pytest

from loci.bench.world.profile import BASELINE, describe, in_bfloat16, measure, walk_parts
from loci.errors import LociError
from tests.world.models import small_world


def test_variants_compute_the_same_chunks_and_are_compared_with_the_baseline() -> None:
    world = small_world()
    variants = {BASELINE: lambda world: world, "again": copy.copy, "bfloat16": in_bfloat16}
    results = measure(world, 2, variants)
    rows = results["rows"]
    assert list(rows) == list(variants)
    assert rows["again"]["difference"] == 0
    assert 0 < rows["bfloat16"]["difference"] < 0.5
    assert rows[BASELINE]["speedup"] == 1
    assert set(results["stages"]) == {"context", "sampling", "frames", "history"}
    assert all(row["seconds"] > 0 for row in rows.values())
    assert "speed-up" in describe(results)


def test_no_chunks_are_refused(tmp_path) -> None:
    with pytest.raises(LociError, match="--chunks"):
        walk_parts(tmp_path / "f.json", chunks=0)
