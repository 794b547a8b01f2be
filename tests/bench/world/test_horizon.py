"""The cost of a chunk, and the published loop beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loci.bench.world.horizon import chunk_costs, describe, horizon, measure, picture, state_bytes
from loci.errors import LociError
from loci.world.world import World
from tests.world.models import small_world, with_keyframes


def test_the_published_loop_makes_the_same_numbers() -> None:
    costs = chunk_costs(small_world(), 10)
    assert [cost.chunk for cost in costs] == [1, 8, 10]
    for cost in costs:
        assert cost.difference is not None
        assert cost.difference < 1e-4
        assert cost.published_seconds > cost.published_encoding_seconds > 0
    assert costs[0].first_frame_seconds > costs[0].seconds


def test_also_where_a_chunk_attends_to_some_of_the_keyframes() -> None:
    costs = chunk_costs(with_keyframes(small_world(), 12, 2), 20)
    differences = [cost.difference for cost in costs]
    assert all(difference is not None and difference < 1e-4 for difference in differences)


def test_also_in_steps_of_second_order() -> None:
    world = small_world()
    sampling = replace(world.config.sampling, steps=4, order=2)
    config = replace(world.config, sampling=sampling)
    (first, last) = chunk_costs(World(config, world.transformer, world.codec), 2)
    assert first.difference is not None
    assert last.difference is not None
    assert max(first.difference, last.difference) < 1e-4


@pytest.mark.parametrize("memory_excludes_local", [False, True])
def test_also_where_the_history_is_what_the_codec_sees(memory_excludes_local: bool) -> None:
    (first, last) = chunk_costs(
        small_world(reencode=True, memory_excludes_local=memory_excludes_local), 3
    )
    assert first.difference is not None
    assert last.difference is not None
    # Frames of 8 bits are what the published loop encodes; ours has not rounded them.
    assert first.difference <= 1 / 127
    assert last.difference < 0.2


def test_bytes_are_those_of_every_tensor() -> None:
    world = small_world()
    state = world.start(picture(world))
    assert state_bytes(state) == state.newest_latent.nbytes + state.pose.nbytes
    _, after = world.step(state, [(1, 0)] * 4)
    assert state_bytes(after) == state_bytes(state) + after.memory.nbytes


def test_results_have_the_promised_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(World, "from_pretrained", lambda model: small_world())
    horizon(tmp_path / "out.json", chunks=9)
    results = json.loads((tmp_path / "out.json").read_text())
    for name in (
        "seconds_ratio_last_over_8th",
        "state_bytes_ratio_last_over_8th",
        "published_seconds_ratio_last_over_8th",
        "speedup_at_8th",
        "frames_per_second",
    ):
        assert results[name] > 0
    assert results["max_difference"] < 1e-4
    assert [row["chunk"] for row in results["rows"]] == [1, 8, 9]
    assert "speedup_at_8th" in capsys.readouterr().out


def test_short_walks_have_no_ratios() -> None:
    results = measure(small_world(), 2)
    assert results["speedup_at_8th"] is None
    assert "speedup" not in describe(results)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="--chunks: 0, expected at least 1"):
        horizon(tmp_path / "out.json", chunks=0)
    with pytest.raises(LociError, match="nowhere"):
        horizon(tmp_path / "nowhere" / "out.json")
