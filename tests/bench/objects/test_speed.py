"""`loci bench speed` on a tiny model with random weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.error_budget import ErrorScale
from loci.bench.calibrate_lifts import STAGES as CALIBRATED
from loci.bench.calibrate_lifts import TOLERANCES, ToleranceSampler, run_tolerances
from loci.bench.objects import metrics
from loci.bench.objects.cases import Case
from loci.bench.objects.methods import methods, select_methods
from loci.bench.objects.metrics import Prediction
from loci.bench.objects.speed import STAGES, describe, measure
from loci.bench.objects.speed_plot import draw, labelled, pareto_frontier
from loci.bench.objects.speed_runs import difference_to_exact, run_all
from loci.bench.report import write_json
from loci.bench.tolerances import ToleranceError, fit_scale, tolerance_report
from loci.errors import LociError
from loci.objects import sampling
from loci.objects.lifter import Lifter
from loci.objects.parts import LoadedParts
from loci.objects.placement.pose import MatrixPose
from loci.objects.sampling import StructureSampling
from tests.objects.lifters import (
    example,
    example_pointmap,
    small_config,
    small_lifter,
    small_modules,
)
from tests.train.toy_objects import toy_object

PIXELS, INSIDE = example()


def case(name: str = "table") -> Case:
    still = MatrixPose(torch.eye(3)[None], torch.tensor([[0.0, 0.0, 2.0]]), torch.ones(1))
    grid = torch.zeros(64, 64, 64, dtype=torch.bool)
    grid[20:40, 20:40, 20:40] = True
    pointmap = torch.from_numpy(example_pointmap())
    return Case(name, 0, PIXELS, INSIDE, pointmap, 40.0, grid, toy_object(0), still, ())


class Few:
    """Two objects."""

    def indices(self, count: int | None) -> list[int]:
        return [0, 1][:count]

    def case(self, number: int) -> Case:
        return case(f"table {number}")


@pytest.fixture(scope="module", autouse=True)
def _few_points() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "POINTS", 256)
        yield


@pytest.fixture(scope="module")
def lifter() -> Lifter:
    lifter = small_lifter()
    lifter.loader.keep = True
    return lifter


@pytest.fixture(scope="module")
def results(lifter: Lifter) -> dict[str, Any]:
    return measure(lifter, cast(Any, Few()), methods(0), 1, seed=0)


def test_every_row_has_every_figure(results: dict[str, Any], tmp_path: Path) -> None:
    rows = results["rows"]
    assert list(rows)[0] == "exact"
    assert {"fast", "faster", "TaylorSeer", "EasyCache", "Fast3DCache"} <= rows.keys()
    assert {"random drop", "uniform merge", "steps x 0.5", "released", "paper"} <= rows.keys()
    assert {"loci", "loci structure", "loci slat", "loci decoding"} <= rows.keys()
    assert {"loci line", "loci Hermite", "loci modes"} <= rows.keys()
    for mode in ("released", "paper"):  # with exact, the eight rows of the paper's ablation
        assert sum(name.startswith(mode) for name in rows) == 7
    for name, row in rows.items():
        assert row["failures"] == 0, name
        assert row["speedup"] > 0, name
        assert tuple(row["seconds"]) == STAGES
        assert 0 <= row["fscore"] <= 100
        assert 0 <= row["voxel_iou_to_exact"] <= 1
    exact = rows["exact"]
    assert exact["speedup"] == 1
    assert exact["chamfer_to_exact"] == pytest.approx(0, abs=1e-4)  # cdist is not exact
    assert (exact["fscore_to_exact"], exact["voxel_iou_to_exact"]) == (100, 1)
    assert rows["steps x 0.5"]["evaluations"] < exact["evaluations"] == 10
    assert rows["released"]["evaluations"] <= exact["evaluations"]
    assert rows["random drop"]["voxel_iou_to_exact"] < 1
    assert rows["uniform merge"]["decoding_factor"] == 1.5
    assert rows["random tokens"]["evaluations"] == exact["evaluations"]
    (one,) = rows["fast"]["runs"]
    assert one["object"] == "table 0"
    assert sum(s["evaluations"] for s in one["stats"].values()) == rows["fast"]["evaluations"]
    write_json(tmp_path / "speed.json", results)
    assert json.loads((tmp_path / "speed.json").read_text())["rows"]["fast"]["group"] == "loci"
    printed = describe(results)
    assert "1 held-out objects" in printed
    assert "TaylorSeer" in printed


def test_the_plot_is_a_picture(results: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(tmp_path / "speed.png", results["rows"])
    assert Image.open(tmp_path / "speed.png").width > 600


def test_methods_differ_and_leave_the_model_as_it_was(lifter: Lifter) -> None:
    before, asked = lifter.config, methods(0)
    names = [method.name for method in asked]
    assert len(set(names)) == len(names)
    some = [method for method in asked if method.name in ("exact", "steps x 0.25")]
    runs = run_all(lifter, case(), some, seed=0)
    assert lifter.config is before
    assert runs["steps x 0.25"].evaluations == 4  # one guided step each
    again = run_all(lifter, case(), some, seed=0)
    assert again["exact"].scores.f_score == runs["exact"].scores.f_score


def test_rows_that_treat_the_structure_alike_share_one_run(lifter: Lifter) -> None:
    some = select_methods(0, ["random drop", "loci structure", "steps x 0.5"])
    assert [method.name for method in some][0] == "exact"
    assert len(some) == 4
    calls: list[str] = []

    def count(name: str) -> None:
        calls.append(name)

    with pytest.MonkeyPatch.context() as patch:
        sample = sampling.sample_structure

        def counted(*given: Any) -> Any:
            count("structure")
            return sample(*given)

        patch.setattr(sampling, "sample_structure", counted)
        runs = run_all(lifter, case(), some, seed=0)
    # Exact twice, for its seconds; the random drop takes exact's.
    assert len(calls) == 4
    stages = {name: run.stats.stage("structure") for name, run in runs.items()}
    assert stages["random drop"] is stages["exact"]
    assert stages["loci structure"] is not stages["exact"]
    alone = run_all(lifter, case(), select_methods(0, ["random drop"]), seed=0)
    assert alone["random drop"].scores == runs["random drop"].scores
    with pytest.raises(LociError, match="--rows: 'slow', expected some of: exact, steps x 0.5"):
        select_methods(0, ["fast", "slow"])
    assert len(select_methods(0, [])) == len(methods(0))


def test_a_failure_is_a_row_and_no_end(lifter: Lifter, monkeypatch: pytest.MonkeyPatch) -> None:
    from loci.objects import pipeline as lifting

    monkeypatch.setattr(lifting, "occupied", lambda logits: logits.new_zeros(0, 4).int())
    run = run_all(lifter, case(), methods(0)[:1], seed=0)["exact"]
    assert "no voxel above threshold" in str(run.failure)
    assert run.scores.f_score == 0


def test_distance_to_exact_sees_a_shift(lifter: Lifter) -> None:
    guess = Prediction.from_asset(lifter(PIXELS, INSIDE, seed=0))
    moved = guess._replace(points=guess.points + 0.2, voxels=(guess.voxels + 1) % 4)
    assert difference_to_exact(guess, guess).f_score == 1
    assert difference_to_exact(moved, guess).chamfer > difference_to_exact(guess, guess).chamfer
    assert difference_to_exact(None, guess).f_score == 0
    assert np.isnan(difference_to_exact(guess, None).chamfer)


def test_tolerances_are_run_with_a_calibration() -> None:
    config = small_config(structure=StructureSampling(steps=8))
    lifter = Lifter(config, LoadedParts(small_modules()), keep=True)
    none = ModelCalibration()
    strict = ModelCalibration(structure=ErrorScale(1e3), slat=ErrorScale(1e3))
    free, held = (run_tolerances(lifter, [case()], given, seed=0) for given in (none, strict))
    for tested in (free, held):
        reports = {stage: tolerance_report(None, tested.errors[stage]) for stage in CALIBRATED}
        assert list(reports) == ["structure", "slat"]
        for report in reports.values():
            assert [line["tolerance"] for line in report["held_out"]] == list(TOLERANCES)
            assert all(line["error_90th_percentile"] >= 0 for line in report["held_out"])
        results = {"objects": 1, "rows": {}, "notes": [], "tolerances": reports}
        assert "share within" in describe(results)
    assert sum(error.error for error in free.errors["structure"]) > 0
    assert sum(error.error for error in held.errors["structure"]) == 0, "nothing is skipped"
    assert len(free.spectral_ratios) == 1
    assert 0 < free.spectral_ratios[0] < 1
    assert not ToleranceSampler(none).errors["slat"]


def test_nine_in_ten_errors_are_below_the_fitted_scale() -> None:
    errors = [ToleranceError(t, (2 + n / 10) * t) for t in TOLERANCES for n in range(10)]
    scale = fit_scale(errors)
    assert scale is not None
    assert np.mean([e.error <= scale.true(e.tolerance) + 1e-9 for e in errors]) >= 0.9
    assert fit_scale([ToleranceError(0.1, 0.2)]) is None
    two = [ToleranceError(0.1, 0.05), ToleranceError(0.1, 0.15)]
    (line,) = tolerance_report(None, two)["held_out"]
    assert (line["mean_error"], line["share_within"]) == (pytest.approx(0.1), 0.5)
    assert line["error_90th_percentile"] == pytest.approx(0.14)


def test_the_frontier_holds_what_nothing_beats() -> None:
    points = [(1.0, 0.0), (2.0, 1.0), (1.5, 2.0), (3.0, 4.0), (2.0, 0.5), (1.2, 0.5)]
    assert pareto_frontier(points) == [(1.0, 0.0), (2.0, 0.5), (3.0, 4.0)]


def test_a_plot_names_what_matters() -> None:
    edge = [(1.0, 0.0), (3.0, 0.5)]
    ours = {"faster": (4.0, 2.0), "a": (3.0, 0.5), "b": (2.0, 0.7), "fast": (2.5, 1.0)}
    assert labelled(ours, edge) == ["fast", "a", "faster"]
    assert labelled({"slow": (1.1, 3.0), "quick": (1.9, 5.0)}, edge) == ["quick"]
