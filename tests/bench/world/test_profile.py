import copy

import pytest

from loci.bench.world.profile import AS_IT_IS, describe, halved, measure, walk_parts
from loci.errors import LociError
from tests.world.models import small_world


def test_every_way_walks_the_same_chunks_and_is_compared_with_the_world_as_it_is() -> None:
    world = small_world()
    ways = {AS_IT_IS: lambda world: world, "again": copy.copy, "bfloat16": halved}
    results = measure(world, 2, ways)
    rows = results["rows"]
    assert list(rows) == list(ways)
    assert rows["again"]["difference"] == 0
    assert 0 < rows["bfloat16"]["difference"] < 0.5
    assert rows[AS_IT_IS]["faster"] == 1
    assert set(results["parts"]) == {"context", "chunks", "frames", "history"}
    assert all(row["seconds"] > 0 for row in rows.values())
    assert "times as fast" in describe(results)


def test_no_chunks_are_refused(tmp_path) -> None:
    with pytest.raises(LociError, match="--chunks"):
        walk_parts(tmp_path / "f.json", chunks=0)
