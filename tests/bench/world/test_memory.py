"""`loci bench memory` on a tiny world."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loci import cli
from loci.bench.report import DriftPlan, MemoryPlan
from loci.bench.world import memory as command
from loci.bench.world.memory import HEADLINE, describe, measure, memory
from loci.bench.world.recall import VARIANTS
from loci.world.world import World
from tests.bench.world.test_trials import needs_the_engine
from tests.world.models import small_world


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--maps", "0"], "--maps: 0, expected at least 1"),
        (["--maps", "-1"], "--maps: -1, expected at least 1"),
        (["--seeds", "0"], "--seeds: 0, expected at least 1"),
        (["--pictures", "0"], "--pictures: 0, expected at least 1"),
        (["--lengths", "64", "48"], "--lengths: 64 48, expected more than 48 actions each"),
        (["--alive", "4096", "8"], "--alive: 4096 8, expected 16 frames or more each"),
    ],
)
def test_a_plan_that_measures_nothing_is_refused(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "memory.json"
    assert cli.main(["bench", "memory", "--json", str(path), *argv]) == 2
    assert capsys.readouterr().err == f"loci: {said}\n"
    assert not path.exists()


def test_everything_is_measured() -> None:
    needs_the_engine()
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("skimage")
    drift = DriftPlan(frames=32, early=(4, 11), late=(25, 32), first=8, last=8, still=8)
    plan = MemoryPlan((56,), 1, drift, alive=(32,), pictures=2)
    results = measure(small_world(), small_world(1), plan, seed=0)
    assert list(results["revisit_psnr"]) == list(VARIANTS)
    missing = {name for name, value in results["revisit_psnr"].items() if value is None}
    assert missing == {"raw", "merged"} == set(results["not_measured"])
    assert set(results["by_kind"]) == {"spin", "walk"}
    assert results["action_accuracy_true"] > 0.95
    without = {"walk512_over_none_db", "alive_4096", "alive_10000"}
    without |= {"drift_ratio_4096", "drift_ratio_10000"}
    assert {name for name in HEADLINE if results.get(name) is None} == without
    spins = results["by_kind"]["spin"]["all"]["psnr"]
    assert results["spin_below_codec_db"] == pytest.approx(spins["codec"] - spins["hpmc"])
    sharpness = results["sharpness"]
    assert results["sharpness_gradient"] == min(part["gradient"] for part in sharpness.values())
    assert len(results["alive_32_by_walk"]) == 2
    assert "alive_4096: -" in describe(results)
    assert "hpmc" in describe(results)


def test_several_seeds_have_means_and_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = []

    def one_seed(world: World, rival: World | None, plan: MemoryPlan, seed: int) -> dict[str, Any]:
        plans.append(plan)
        tables = {"revisit_psnr": {"hpmc": float(seed)}, "by_kind": {}, "self_consistency": {}}
        tables |= {f"revisit_{metric}": {"hpmc": 1.0} for metric in ("ssim", "feature_distance")}
        figures = {"alive_4096": float(seed), "drift_ratio": None}
        return {"seed": seed, **tables, **figures, "not_measured": {}, "notes": []}

    monkeypatch.setattr(command, "measure", one_seed)
    monkeypatch.setattr(World, "from_pretrained", lambda model: small_world())
    path = tmp_path / "memory.json"
    memory(path, seed=4, seeds=3, maps=2, alive=(4096, 10000))
    results = json.loads(path.read_text())
    assert [run["seed"] for run in results["runs"]] == results["seeds"] == [4, 5, 6]
    assert results["seed"] == 4
    assert results["alive_4096"] == results["revisit_psnr"]["hpmc"] == 5
    low, high = results["intervals_95"]["alive_4096"]
    assert (low + high) / 2 == pytest.approx(5)
    assert high - 5 == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)
    assert "alive_4096: 5.000 (95 %: 2.516 to 7.484)" in capsys.readouterr().out
    assert {(plan.maps, plan.alive, plan.pictures) for plan in plans} == {(2, (4096, 10000), 3)}
