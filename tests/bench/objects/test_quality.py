"""`loci bench objects` on toy tables and a tiny lifter."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from loci.bench import metrics as features
from loci.bench.objects.bounds import (
    Retrieval,
    VAEReconstruction,
    crop,
    missing_vaes,
    surface_gaussians,
)
from loci.bench.objects.cases import HeldOutObjects
from loci.bench.objects.metrics import (
    OrientedBox,
    Prediction,
    Scores,
    box_iou,
    rescore_pose,
    score,
    surface_points,
)
from loci.bench.objects.quality import (
    describe,
    intervals,
    lift,
    measure,
    objects,
    relative_to_bounds,
    summary,
)
from loci.bench.report import ObjectPlan
from loci.data.objects.dataset import ObjectSet
from loci.errors import LociError
from loci.objects.lifter import Lifter
from loci.objects.models.slat_decoders import GaussianDecoderConfig, MeshDecoderConfig, TorsoConfig
from loci.objects.models.slat_encoder import CHANNELS, SlatEncoderConfig
from loci.objects.placement.pose import MatrixPose
from loci.train.slat.parts import SlatVAE, SlatVAEConfig
from loci.train.structure.evaluate import StructureLatents
from tests.bench.object_folders import write_tables
from tests.objects.lifters import small_lifter

PLAN = ObjectPlan(objects=2, views=1, retrievable=2)


class Outlines:
    """Features that need no network: where a crop is not white, coarsely."""

    name = "outlines"

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        dark = np.min(frames, axis=3)[:, ::4, ::4].reshape(len(frames), -1) < 250
        return dark.astype(np.float64) - 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    write_tables(folder / "train", [1, 2])
    write_tables(folder / "test", [3, 4])
    return folder


@pytest.fixture(scope="module")
def held_out(folder: Path) -> HeldOutObjects:
    return HeldOutObjects.load(folder / "test", seed=0, unseen=1)


def truth_of(held_out: HeldOutObjects, number: int) -> Prediction:
    case = held_out.case(number)
    model = surface_gaussians(case.item.surface.float())
    return Prediction(surface_points(model), case.item.coords, 32, model, case.pose)


def box(low: float, high: float, shift: float = 0.0, scale: float = 1.0) -> OrientedBox:
    placement = MatrixPose(torch.eye(3)[None], torch.tensor([[shift, 0, 0]]), torch.tensor([scale]))
    return OrientedBox(torch.full((3,), low), torch.full((3,), high), placement)


def test_a_case_depends_on_its_object_and_the_seed_only(
    held_out: HeldOutObjects, folder: Path
) -> None:
    first, again = held_out.case(1), HeldOutObjects.load(folder / "test", 0, 2).case(1)
    assert (first.pixels == again.pixels).all()
    assert first.view == again.view
    assert (len(first.unseen), len(again.unseen)) == (1, 2)
    others = [replace(held_out, seed=seed).case(1).pixels for seed in (1, 2)]
    assert not any((first.pixels == other).all() for other in others)
    depth = first.pointmap[..., 2][torch.from_numpy(first.mask)]
    middle = float(first.pose.translation[0, 2])
    assert float(depth.nanmedian()) == pytest.approx(middle, rel=0.5)
    assert float(first.canonical_pose.translation[0, 2]) == pytest.approx(1)


def test_the_truth_scores_best(held_out: HeldOutObjects) -> None:
    case = held_out.case(0)
    scores = score(truth_of(held_out, 0), case, case.pose)
    assert scores.chamfer < 0.02
    assert scores.f_score == 1
    assert scores.voxel_iou > 0.95
    assert scores.box_iou > 0.98
    assert scores.rotation_error < 0.1
    assert scores.psnr > 15


def test_another_object_elsewhere_scores_less(held_out: HeldOutObjects) -> None:
    case, prediction = held_out.case(0), truth_of(held_out, 1)
    r, t, s = case.pose
    quarter = torch.tensor([[[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]])
    aside = MatrixPose(quarter @ r, t + s * 0.2, s)
    scores, own = (score(p, case, case.pose) for p in (prediction, truth_of(held_out, 0)))
    assert scores.chamfer > own.chamfer
    assert scores.voxel_iou < own.voxel_iou
    assert scores.psnr < own.psnr
    moved = rescore_pose(own, prediction._replace(pose=aside), case, case.pose)
    assert moved.rotation_error == pytest.approx(90, abs=0.1)
    assert moved.box_iou < 0.5 < own.box_iou
    assert moved.psnr == own.psnr


def test_without_a_prediction_the_scores_are_lowest(held_out: HeldOutObjects) -> None:
    case = held_out.case(0)
    scores = score(None, case, case.pose)
    assert (scores.f_score, scores.voxel_iou, scores.box_iou) == (0, 0, 0)
    assert math.isnan(scores.chamfer)
    assert scores.psnr < score(truth_of(held_out, 0), case, case.pose).psnr


def test_boxes_overlap_as_their_volumes_say() -> None:
    assert box_iou(box(-0.5, 0.5), box(-0.5, 0.5)) == pytest.approx(1)
    assert box_iou(box(-0.5, 0.5), box(-0.5, 0.5, shift=0.5)) == pytest.approx(1 / 3)
    assert box_iou(box(-0.5, 0.5), box(-0.5, 0.5, scale=2)) == pytest.approx(1 / 8)
    assert box_iou(box(-0.5, 0.5), box(-0.25, 0.25, scale=2)) == pytest.approx(1)
    assert box_iou(box(-0.5, 0.5), box(-0.5, 0.5, shift=3)) == 0
    assert box_iou(box(-0.5, 0.5), box(0, 0)) == 0


def test_retrieval_finds_the_very_object_and_places_it(held_out: HeldOutObjects) -> None:
    retrieval = Retrieval(held_out.objects, held_out.objects.views, Outlines())
    for number in (0, 1):
        case = held_out.case(number)
        assert retrieval.nearest(case) == (number, case.view)
        found = retrieval.retrieve(case)
        assert found.name == case.name
        known = score(found.with_pointmap, case, case.pose)
        assert known.rotation_error < 1
        assert known.box_iou > 0.9
        assert known.f_score == 1
        alone = rescore_pose(known, found.without_pointmap, case, case.canonical_pose)
        assert alone.rotation_error < 5
        assert alone.box_iou > 0.85
        assert float(found.without_pointmap.pose.translation[0, 2]) == pytest.approx(1)


def test_crops_show_nothing_but_the_object(held_out: HeldOutObjects) -> None:
    case = held_out.case(0)
    other = np.where(case.mask[:, :, None], case.pixels, 7).astype(np.uint8)
    assert (crop(case.pixels, case.mask) == crop(other, case.mask)).all()
    assert (crop(case.pixels, case.mask)[0] == 255).all()


class Unchanged:
    """An autoencoder of voxels without loss."""

    def latents(self, shapes: Tensor) -> Tensor:
        return shapes

    def shapes(self, latents: Tensor) -> Tensor:
        return latents


def test_the_upper_bound_is_the_reconstruction(held_out: HeldOutObjects) -> None:
    torch.manual_seed(0)
    torso = TorsoConfig(dim=16, blocks=1, heads=2, resolution=32)
    slat = SlatVAE(
        SlatVAEConfig(
            SlatEncoderConfig(replace(torso, channels=CHANNELS)),
            GaussianDecoderConfig(torso, gaussians=1),
            MeshDecoderConfig(torso, narrowing=(2,), norm_groups=4, closed=True),
        )
    ).eval()
    case = held_out.case(0)
    prediction = VAEReconstruction(cast(StructureLatents, Unchanged()), slat).reconstruct(case)
    assert prediction is not None
    scores = score(prediction, case, case.pose)
    assert scores.voxel_iou == 1
    assert scores.rotation_error < 0.1
    nothing = cast(Any, Unchanged())
    nothing.shapes = torch.zeros_like
    assert VAEReconstruction(nothing, slat).reconstruct(case) is None


@pytest.mark.parametrize("with_pointmap", [True, False])
def test_the_asset_of_a_user_is_scored(held_out: HeldOutObjects, with_pointmap: bool) -> None:
    case, lifter = held_out.case(0), small_lifter()
    lifted = lift(lifter, case, with_pointmap, seed=2)
    assert lifted.prediction is not None
    assert lifted.failure is None
    assert len(lifted.costs) == len(lifter.config.parts)
    pointmap = case.pointmap if with_pointmap else None
    same = Prediction.from_asset(lifter(case.pixels, case.mask, pointmap, seed=2))
    assert torch.equal(lifted.prediction.points, same.points)
    assert torch.equal(lifted.prediction.pose.translation, same.pose.translation)


def test_failures_are_reported(held_out: HeldOutObjects) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LociError("mask: no voxel above threshold")

    lifted = lift(cast(Lifter, broken), held_out.case(0), True, 0)
    assert lifted.prediction is None
    assert lifted.failure == "mask: no voxel above threshold"
    with pytest.raises(LociError, match="no object can be lifted: mask: no voxel"):
        measure(cast(Lifter, broken), held_out, held_out.objects, None, PLAN)


@pytest.fixture
def without_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "Features", Outlines)
    monkeypatch.setattr(Lifter, "from_pretrained", lambda model, device: small_lifter())


@pytest.mark.usefixtures("without_networks")
def test_the_command_leaves_a_table_and_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    objects(tmp_path / "out.json", True, 3, "tiny", folder, nowhere, nowhere)
    results = json.loads((tmp_path / "out.json").read_text())
    ours = [
        "with_pointmap",
        "without_pointmap",
        "retrieval_with_pointmap",
        "retrieval_without_pointmap",
    ]
    assert list(results["scores"]) == ours
    for column in ours:
        assert set(results["scores"][column]) == set(Scores._fields)
    assert [row["name"] for row in results["by_object"]] == ["toy-3", "toy-4"]
    assert {row["retrieved"] for row in results["by_object"]} <= {"toy-1", "toy-2"}
    assert results["feature_network"] == "outlines"
    assert results["stages"]["structure_flow"]["seconds"] > 0
    assert results["failures"] == {"with_pointmap": {}, "without_pointmap": {}}
    assert "the encoders are in the training runs" in results["not_measured"]["upper_bound"]
    shown = capsys.readouterr().out
    for word in ("2 held-out objects", "chamfer", "structure_flow", "outlines", "no upper_bound"):
        assert word in shown


@pytest.mark.usefixtures("without_networks")
def test_scores_are_relative_to_an_upper_bound(
    held_out: HeldOutObjects, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Perfect:
        def reconstruct(self, case: Any) -> Prediction:
            return truth_of(held_out, held_out.objects.records.index(by_name[case.name]))

    by_name = {record.name: record for record in held_out.objects.records}
    train = ObjectSet.load(folder / "train")
    results = measure(small_lifter(), held_out, train, cast(VAEReconstruction, Perfect()), PLAN)
    assert results["scores"]["upper_bound"]["f_score"] == 1
    assert set(results["relative_to_bounds"]["without_pointmap"]) == set(Scores._fields)
    assert "from retrieval (0) to upper bound (1)" in describe(results)


def test_means_leave_out_missing_scores_and_rotations_are_medians() -> None:
    good = Scores(0.1, 1.0, 0.5, 0.5, 10.0, 8.0, 20.0)
    turned = Scores(0.3, 0.5, 0.5, 0.5, 170.0, 9.0, 10.0)
    none = Scores(math.nan, 0.0, 0.0, 0.0, math.nan, math.nan, 6.0)
    figures = summary([good, good, turned, none])
    assert figures["chamfer"] == pytest.approx(0.5 / 3)
    assert figures["f_score"] == pytest.approx(2.5 / 4)
    assert figures["rotation_error"] == 10
    assert figures["symmetric_rotation_error"] == 8


def test_intervals_hold_the_mean_and_narrow_with_more_objects() -> None:
    rows = [Scores(0.1, f, 0.5, 0.5, 10.0, 8.0, 20.0) for f in (0.2, 0.4, 0.6, 0.8)]
    low, high = intervals(rows)["f_score"]
    assert 0.2 <= low < 0.5 < high <= 0.8
    assert high - low == pytest.approx(2 * 1.96 * np.std([0.2, 0.4, 0.6, 0.8]) / 2, rel=0.1)
    narrow = intervals(rows * 16)["f_score"]
    assert narrow[1] - narrow[0] == pytest.approx((high - low) / 4, rel=0.15)
    assert intervals(rows)["voxel_iou"] == (0.5, 0.5)
    none = [row._replace(chamfer=math.nan) for row in rows]
    assert all(math.isnan(end) for end in intervals(none)["chamfer"])
    assert intervals(none)["f_score"] == (low, high)


@pytest.mark.usefixtures("without_networks")
def test_another_part_is_measured_without_the_baseline(folder: Path, tmp_path: Path) -> None:
    write_tables(tmp_path / "packs", [7, 8])
    nowhere = tmp_path / "nowhere"
    asked = {"data": tmp_path, "structure_vae": nowhere, "slat_vae": nowhere, "quick": True}
    objects(tmp_path / "out.json", model="tiny", part="packs", count=1, retrieval=False, **asked)
    results = json.loads((tmp_path / "out.json").read_text())
    assert list(results["scores"]) == ["with_pointmap", "without_pointmap"]
    assert [row["name"] for row in results["by_object"]] == ["toy-7"]
    assert (results["part"], results["retrieved_from"]) == ("packs", 0)
    low, high = results["intervals"]["with_pointmap"]["f_score"]
    assert low <= results["scores"]["with_pointmap"]["f_score"] <= high
    with pytest.raises(LociError, match="simple: no objects; .*: loci data objects --simple 48"):
        objects(tmp_path / "out.json", model="tiny", part="simple", retrieval=False, **asked)


@pytest.mark.usefixtures("without_networks")
def test_a_preset_is_compared_with_earlier_results(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    speeds, scene = [], Lifter.scene

    def noted(self: Lifter, *args: Any, **options: Any) -> Any:
        speeds.append(options["speed"])
        return scene(self, *args, **options)

    monkeypatch.setattr(Lifter, "scene", noted)
    nowhere = tmp_path / "nowhere"
    asked = {"data": folder, "structure_vae": nowhere, "slat_vae": nowhere, "retrieval": False}
    exact = tmp_path / "exact.json"
    objects(exact, True, model="tiny", **asked)
    objects(tmp_path / "f.json", True, model="tiny", speed="faster", against=exact, **asked)
    assert speeds == ["exact"] * 4 + ["faster"] * 4
    results = json.loads((tmp_path / "f.json").read_text())
    assert results["speed"] == "faster"
    value, low, high = results["differences"]["with_pointmap"]["f_score"]
    assert low <= value <= high
    earlier = json.loads(exact.read_text())["scores"]["with_pointmap"]["f_score"]
    assert value == pytest.approx(results["scores"]["with_pointmap"]["f_score"] - earlier)
    assert "less the earlier results" in capsys.readouterr().out


def test_relative_scores_go_from_retrieval_to_the_upper_bound() -> None:
    columns = {"without_pointmap": 0.3, "retrieval_without_pointmap": 0.2, "upper_bound": 0.6}
    figures = {column: {"voxel_iou": value} for column, value in columns.items()}
    assert relative_to_bounds(figures, "without_pointmap") == {"voxel_iou": pytest.approx(0.25)}
    del figures["upper_bound"]
    assert relative_to_bounds(figures, "without_pointmap") == {}


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    loaded: Callable[..., Lifter] = lambda model, device: small_lifter()  # noqa: E731
    monkeypatch.setattr(Lifter, "from_pretrained", loaded)
    with pytest.raises(LociError, match="nowhere"):
        objects(tmp_path / "nowhere" / "out.json", data=folder)
    with pytest.raises(
        LociError,
        match="&& loci data objects /usr",
    ):
        objects(tmp_path / "out.json", data=tmp_path)
    assert not list(tmp_path.iterdir())
    assert missing_vaes(tmp_path, tmp_path) is not None
