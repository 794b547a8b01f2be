"""The whole measurement on a tiny world, and the pieces it is made of."""

import numpy as np
import pytest
import torch

from loci import cli
from loci.bench.report import DriftPlan, MemoryPlan
from loci.bench.world.memory import describe, measure
from loci.bench.world.recall import VARIANTS, Tally, held_out_maps, make_trial, remember, walk_on
from loci.bench.world.variants import variants, with_memory
from tests.world.models import small_world

SIZE = (32, 32)


def needs_the_engine() -> None:
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed (the extra `doom`)")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--maps", "0"], "--maps: 0, expected at least 1"),
        (["--maps", "-1"], "--maps: -1, expected at least 1"),
        (["--lengths", "64", "48"], "--lengths: 64 48, expected more than 48 actions each"),
    ],
)
def test_a_measure_of_nothing_is_refused(argv: list[str], said: str, tmp_path, capsys) -> None:
    path = tmp_path / "memory.json"
    assert cli.main(["bench", "memory", "--json", str(path), *argv]) == 2
    assert capsys.readouterr().err == f"loci: {said}\n"
    assert not path.exists()


def test_held_out_maps_are_odd_and_follow_the_seed() -> None:
    assert all(m % 2 for m in held_out_maps(5, 3))
    assert not set(held_out_maps(20, 0)) & set(held_out_maps(20, 1))


@pytest.mark.parametrize(("kind", "known"), [("spin", 48), ("walk", 32)])
def test_the_way_back_shows_what_was_seen(kind: str, known: int) -> None:
    needs_the_engine()
    trial = make_trial(kind, 64, *held_out_maps(2, 0), SIZE)  # pyright: ignore
    assert trial.known == known
    assert trial.frames.shape == trial.wrong.shape == (65, *SIZE, 3)
    then = trial.frames[trial.same].astype(int)
    assert len(trial.back) == len(trial.truth) == len(then) == 64 - known
    assert np.abs(then - trial.truth).mean() < 1
    if kind == "spin":
        # 40 degrees are five steps and a part of one.
        assert trial.hidden.tolist() == [False] * 5 + [True] * 11


def test_true_frames_are_remembered_where_the_actions_lead() -> None:
    world = small_world(reencode=True)
    rng = np.random.default_rng(0)
    actions = np.array([(1, 0), (0, 3), (2, 4), (0, 0)] * 5)
    start = world.start(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), seed=3)
    made, walked = walk_on(world, start, actions)
    first = ((world.codec.decode(start.local)[0, :, 0] + 1) * 127.5).round().byte()
    frames = np.concatenate([first.permute(1, 2, 0).numpy()[None], made])
    state = remember(world, frames, actions, seed=3)
    assert (state.seed, state.frames) == (walked.seed, walked.frames)
    assert state.memory.plan == walked.memory.plan
    assert torch.equal(state.pose, walked.pose)
    assert state.memory.tail_poses is None or state.memory.tail_poses.shape[1] == 4
    assert (state.local - walked.local).abs().max() < 0.2


def test_variants_differ_in_memory_alone() -> None:
    world = small_world()
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (41, *SIZE, 3), dtype=np.uint8)
    actions = np.array([(1, 3)] * 40)
    other = remember(world, frames[::-1], actions, seed=0)
    worlds = variants(world, world.memory.codes(other.memory))
    assert set(worlds) == {"hpmc", "keepsakes", "age", "none", "wrong", "window", "stride"}
    made = {
        name: walk_on(w, remember(w, frames, actions, seed=0), actions[:6])[0]
        for name, w in worlds.items()
    }
    assert {frames.shape for frames in made.values()} == {(6, *SIZE, 3)}
    for name in ("none", "wrong"):
        assert (made[name] != made["hpmc"]).any()
    # Forty latents are ten codes of level one, which these four hold.
    for name in ("age", "window", "stride"):
        assert np.abs(made[name].astype(int) - made["hpmc"]).max() <= 1
    same, _ = walk_on(with_memory(world, world.memory), other, actions[:4])
    assert (same == walk_on(world, other, actions[:4])[0]).all()


def test_keepsakes_and_cover_part_where_codes_are_merged() -> None:
    world = small_world()
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 256, (161, *SIZE, 3), dtype=np.uint8)
    actions = np.array([(1, 3)] * 160)
    spans = {
        name: other.memory.codes(remember(other, frames, actions, seed=0).memory).spans
        for name, other in variants(world).items()
        if name in ("hpmc", "keepsakes")
    }
    hierarchy = world.config.horizon.hierarchy
    assert spans["hpmc"] != spans["keepsakes"]
    assert max(map(len, spans.values())) <= hierarchy.budget
    starts = [span.start for span in spans["hpmc"]]
    assert len(set(starts)) == len(starts)  # A cover has nothing twice


def test_means_pool_frames_and_miss_nothing_silently() -> None:
    tally = Tally({("psnr", "spin", 64, "hpmc"): [np.array([20.0, 22.0]), np.array([27.0])]})
    assert tally.means("psnr", ("hpmc", "raw")) == {"hpmc": 23.0, "raw": None}
    assert tally.means("psnr", ("hpmc",), kind="walk") == {"hpmc": None}


def test_everything_is_measured() -> None:
    needs_the_engine()
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("skimage")
    drift = DriftPlan(frames=32, early=(4, 11), late=(25, 32), still=8)
    results = measure(small_world(), small_world(1), MemoryPlan((56,), 1, drift), seed=0)
    assert list(results["revisit_psnr"]) == list(VARIANTS)
    missing = {name for name, value in results["revisit_psnr"].items() if value is None}
    assert missing == {"raw"} == set(results["not_measured"])
    assert set(results["by_kind"]) == {"spin", "walk"}
    assert results["action_accuracy_true"] > 0.95
    for name in ("drift_ratio", "standing_still_psnr", "action_accuracy", "frames_per_second"):
        assert np.isfinite(results[name])
    assert "drift_ratio" in describe(results)
