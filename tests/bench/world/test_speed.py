"""`loci bench walk-speed` on a tiny world with random weights."""

from dataclasses import replace

import numpy as np
import pytest

from loci.acceleration.presets import Preset, exact
from loci.acceleration.token_cache import TokenCacheConfig
from loci.bench.report import DriftPlan, MemoryPlan, write_json
from loci.bench.world.speed import (
    COLUMNS,
    PLAN,
    QUICK_PLAN,
    MethodScores,
    TimedWalk,
    describe,
    measure,
    row,
    sharpness,
    walk_in_turn,
)
from loci.bench.world.trials import rollout
from loci.bench.world.variants import WalkMethod, walk_methods
from loci.world.world import World
from tests.world.models import small_world

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
ACTIONS = np.array([(1, 0), (0, 3), (2, 4)] * 3)


def eight_steps() -> World:
    world = small_world()
    world.config = replace(world.config, sampling=replace(world.config.sampling, steps=8))
    return world


def test_rows_have_distinct_names_and_take_their_steps() -> None:
    methods = walk_methods(8)
    names = [method.name for method in methods]
    assert names[0] == "exact"
    assert len(set(names)) == len(names)
    assert {"6 steps", "3 steps", "fast", "faster", "cache 0.1", "carve 0.1"} <= set(names)
    assert "6 steps" not in {method.name for method in walk_methods(6)}
    world = eight_steps()
    fewer = next(method for method in methods if method.name == "3 steps").apply(world)
    assert (fewer.config.sampling.steps, world.config.sampling.steps) == (3, 8)
    assert fewer.stats is not world.stats
    assert PLAN.drift.frames == 1024
    assert QUICK_PLAN.maps == 1


def test_walking_in_turn_is_walking_alone() -> None:
    methods = [WalkMethod("exact", "exact", exact()), WalkMethod("2 steps", "", exact(), 2)]
    world = eight_steps()
    worlds = {method.name: method.apply(world) for method in methods}
    state = world.start(PICTURE)
    together = walk_in_turn(worlds, state, ACTIONS)
    for name, walked in together.items():
        alone, _ = rollout(worlds[name], state, ACTIONS)
        assert np.array_equal(walked.frames, alone)
        assert len(walked.seconds) == 3
    assert not np.array_equal(together["exact"].frames, together["2 steps"].frames)


def test_presets_evaluate_a_share_of_the_steps() -> None:
    """Of eight steps the first two, every other or every third of the rest, and the last."""
    worlds = {m.name: m.apply(eight_steps()) for m in walk_methods(8) if "fast" in m.name}
    state = next(iter(worlds.values())).start(PICTURE)
    walk_in_turn(worlds, state, ACTIONS[:4])
    evaluated = {name: world.stats.stage("sampling").evaluations for name, world in worlds.items()}
    assert evaluated == {"fast": 5, "faster": 4}


def test_figures_of_a_row() -> None:
    world = WalkMethod("2 steps", "", exact(), 2).apply(eight_steps())
    walked = walk_in_turn({"2 steps": world}, world.start(PICTURE), ACTIONS[:8])["2 steps"]
    scores, first = MethodScores(), MethodScores()
    scores.add(TimedWalk(walked.frames, [1.0, 2.0]))
    first.add(TimedWalk(walked.frames, [2.0, 6.0]))
    scores.revisit += [np.array([20.0, 22.0]), np.array([27.0])]
    figures = row(scores, first, world)
    assert (figures["speedup"], figures["frames_per_second"]) == (2.5, 8 / 3)
    assert (figures["evaluations"], figures["active_share"]) == (2, 1)
    assert figures["revisit_psnr"] == 23
    assert figures["psnr_to_exact"] is None
    assert figures["action_accuracy"] is None


def test_fog_is_neither_sharp_nor_rich_in_contrast() -> None:
    true = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    fog = np.concatenate([true[:1], (128 + (true[1:].astype(float) - 128) / 4).astype(np.uint8)])
    figures = sharpness([fog], [true])
    assert figures["sharpness"] == pytest.approx(1 / 16, rel=0.05)
    assert figures["contrast"] == pytest.approx(1 / 4, rel=0.05)


def test_everything_is_measured(tmp_path) -> None:
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed (the extra `doom`)")
    pytest.importorskip("efficientnet_lite_pytorch")
    config = TokenCacheConfig(tolerance=0.05, carving_share=1.0, full_above=0.95)
    methods = [
        WalkMethod("exact", "exact", exact()),
        WalkMethod("2 steps", "fewer steps", exact(), 2),
        WalkMethod("carved", "token carving", Preset("carved", walk=config)),
    ]
    plan = MemoryPlan((56,), 1, DriftPlan(frames=24, early=(4, 7), late=(21, 24)))
    results = measure(eight_steps(), methods, plan, seed=0)
    rows = results["rows"]
    assert list(rows) == ["exact", "2 steps", "carved"]
    for name, figures in rows.items():
        assert all(np.isfinite(figures[column]) for column in COLUMNS), name
    assert (rows["exact"]["psnr_to_exact"], rows["exact"]["speedup"]) == (60, 1)
    assert rows["2 steps"]["psnr_to_exact"] < 60
    assert [rows[name]["evaluations"] for name in ("exact", "2 steps")] == [8, 2]
    assert rows["carved"]["active_share"] < 1 == rows["exact"]["active_share"]
    # A spin of 8 frames back, a walk of 28, the free walk of 24 and the script of 100, by fours.
    assert {figures["chunks"] for figures in rows.values()} == {2 + 7 + 6 + 25}
    assert results["action_accuracy_true"] > 0.95
    assert "speedup" in describe(results)
    write_json(tmp_path / "walk.json", results)
