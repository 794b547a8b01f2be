"""`loci bench objects`: how good are lifted objects, beside a baseline and an upper bound?"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from loci.bench.data import check_objects
from loci.bench.report import QUICK_OBJECTS, ObjectPlan, ratio, table, write_json
from loci.errors import LociError
from loci.io.config_files import read_json
from loci.io.files import check_writable

if TYPE_CHECKING:
    from loci.bench.objects.bounds import VAEReconstruction
    from loci.bench.objects.cases import Case, HeldOutObjects
    from loci.bench.objects.metrics import Prediction, Scores
    from loci.data.objects.dataset import ObjectSet
    from loci.objects.costs import StageCost
    from loci.objects.lifter import Lifter


BASELINES = {
    "with_pointmap": "retrieval_with_pointmap",
    "without_pointmap": "retrieval_without_pointmap",
}
"""The model's columns, and the baseline's column that each is compared with."""
UPPER_BOUND = "upper_bound"
NOTES = (
    "one view of each object; chamfer, f_score (at 0.05), voxel_iou and psnr (of unseen views) in "
    "the object's own frame; box_iou and rotation errors (medians, degrees) in the camera frame",
    "symmetric_rotation_error: to the nearest rotation about the vertical that looks the same",
    "without_pointmap: the true pose is scaled to put the object at distance 1",
    "retrieval: the training object whose picture has the most similar features",
    "upper_bound: the true object in its true pose, reconstructed by both VAEs",
    "seconds: with loading, mean of a run; memory: the peak of the whole process",
    "intervals: 95 %, by bootstrap over objects",
)
RESAMPLES = 2000


def objects(
    json: Path,
    quick: bool = False,
    seed: int = 0,
    model: str = "home",
    data: Path = Path("runs/objects"),
    structure_vae: Path = Path("runs/structure_vae"),
    slat_vae: Path = Path("runs/slat_vae"),
    device: str = "cpu",
    guesses: int | None = None,
    part: Literal["test", "packs", "simple", "aside"] = "test",
    count: int | None = None,
    retrieval: bool = True,
    speed: Literal["exact", "fast", "faster"] = "exact",
    against: Path | None = None,
) -> None:
    """Score the shape, pose, renders and cost of lifted held-out objects.

    Args:
        json: where to write the results.
        quick: fewer objects, and fewer pictures to retrieve from.
        seed: seed of the views, the backgrounds and the noise.
        model: a shipped model, a folder or a hub id.
        data: folder with the objects train and test, as made by loci data objects.
        structure_vae: the run that trained the model's structure VAE, for the upper bound.
        slat_vae: the run that trained its SLAT VAE, for the upper bound.
        device: where to lift: cpu, cuda or mps.
        guesses: how many shapes are sampled and the best one kept; the model's number by default.
        part: which objects: test (held-out furniture), packs (held-out packs of other sources),
            simple (boxes, tori, mugs, cylinders), or aside, on which settings may be chosen.
        count: how many objects, spread evenly; all by default.
        retrieval: also measure the retrieval baseline.
        speed: the preset to lift with.
        against: earlier results of the same objects, to say how these differ, with intervals.
    """
    check_writable(json)
    check_objects(data, part, *(["train"] if retrieval else []))

    from loci.bench.objects.bounds import VAEReconstruction, missing_vaes
    from loci.bench.objects.cases import HeldOutObjects
    from loci.bench.objects.differences import (
        describe_differences,
        differences,
        plain_differences,
        rows_of,
    )
    from loci.data.objects.dataset import ObjectSet
    from loci.objects.lifter import Lifter

    earlier = None if against is None else rows_of(read_json(against), against)
    plan = QUICK_OBJECTS if quick else ObjectPlan()
    plan = plan if count is None else replace(plan, objects=count)
    lifter = Lifter.from_pretrained(model, device)
    held_out = HeldOutObjects.load(data / part, seed, plan.views)
    train = ObjectSet.load(data / "train") if retrieval else None
    reason = missing_vaes(structure_vae, slat_vae)
    bound = None if reason else VAEReconstruction.load(structure_vae, slat_vae)
    results = measure(lifter, held_out, train, bound, plan, guesses, speed)
    not_measured = {UPPER_BOUND: reason} if reason else {}
    asked = {"model": model, "data": str(data), "device": device, "quick": quick, "seed": seed}
    asked |= {
        "speed": speed,
        "part": part,
        "guesses": lifter.config.guesses if guesses is None else guesses,
    }
    found = {}
    if earlier is not None:
        rows = results["by_object"]
        found = {column: differences(rows, earlier, column) for column in BASELINES}
        results["differences"] = plain_differences(found)
    write_json(json, {**asked, "not_measured": not_measured, **results})
    print(describe(results))
    if found:
        print(describe_differences(found))
    for name, why in not_measured.items():
        print(f"no {name}: {why}")


class LiftedCase(NamedTuple):
    """A prediction or why there is none, and the cost of every stage."""

    prediction: Prediction | None
    costs: tuple[StageCost, ...]
    failure: str | None = None


def lift(
    lifter: Lifter,
    case: Case,
    with_pointmap: bool,
    seed: int,
    guesses: int | None = None,
    speed: str = "exact",
) -> LiftedCase:
    """The case's object as a user lifts it; without a pointmap in the canonical pose."""
    from loci.bench.objects.metrics import Prediction

    pointmap = case.pointmap if with_pointmap else None
    try:
        # In generated colours: the true renders are evenly lit, the picture is not.
        asset = lifter(
            *(case.pixels, case.mask, pointmap, seed), guesses=guesses, speed=speed, photo=False
        )
    except LociError as error:  # mostly: no voxel above threshold
        return LiftedCase(None, (), str(error))
    return LiftedCase(Prediction.from_asset(asset), asset.costs)


def stage_costs(lifts: Iterable[LiftedCase]) -> dict[str, dict[str, float | int | None]]:
    """Mean seconds and peak memory of every stage, in order."""
    stages: dict[str, list[StageCost]] = {}
    for one in lifts:
        for cost in one.costs:
            stages.setdefault(cost.stage, []).append(cost)
    return {
        stage: {
            "seconds": sum(cost.seconds for cost in costs) / len(costs),
            "peak_bytes": max((c.peak_bytes for c in costs if c.peak_bytes), default=None),
        }
        for stage, costs in stages.items()
    }


def measure(
    lifter: Lifter,
    held_out: HeldOutObjects,
    train: ObjectSet | None,
    bound: VAEReconstruction | None,
    plan: ObjectPlan,
    guesses: int | None = None,
    speed: str = "exact",
) -> dict[str, Any]:
    """All results, without the arguments; without `train` there is no retrieval baseline.

    Raises:
        LociError: when no object can be lifted, or the packages of the features are missing.
    """
    from tqdm import tqdm

    from loci.bench.metrics import Features
    from loci.bench.objects.bounds import Retrieval
    from loci.bench.objects.metrics import rescore_pose, score

    began = time.perf_counter()
    indices = held_out.indices(plan.objects)
    rows: list[dict[str, Any]] = []
    lifts: dict[str, list[LiftedCase]] = {column: [] for column in BASELINES}
    for index in tqdm(indices, desc="lifting", unit=" objects"):
        case = held_out.case(index)
        row: dict[str, Any] = {"name": case.name, "view": case.view}
        for column, true_pose in zip(BASELINES, (case.pose, case.canonical_pose), strict=True):
            result = lift(lifter, case, column == "with_pointmap", held_out.seed, guesses, speed)
            lifts[column].append(result)
            row[column] = score(result.prediction, case, true_pose)
        rows.append(row)
    _check_any(lifts)
    features = Features() if train is not None else None
    retrieval = None
    if train is not None and features is not None:
        retrieval = Retrieval(
            train, plan.retrievable, features, lambda pairs: iter(tqdm(pairs, desc="indexing"))
        )
    for row, index in zip(rows, tqdm(indices, desc="comparing", unit=" objects"), strict=True):
        case = held_out.case(index)
        if retrieval is not None:
            found = retrieval.retrieve(case)
            row["retrieved"] = found.name
            scores = score(found.with_pointmap, case, case.pose)
            row["retrieval_with_pointmap"] = scores
            row["retrieval_without_pointmap"] = rescore_pose(
                scores, found.without_pointmap, case, case.canonical_pose
            )
        if bound is not None:
            row[UPPER_BOUND] = score(bound.reconstruct(case), case, case.pose)
    columns = [*BASELINES, *(BASELINES.values() if retrieval is not None else ())]
    columns += [UPPER_BOUND] if bound is not None else []
    scores_by_column = {column: summary([row[column] for row in rows]) for column in columns}
    return {
        "objects": len(rows),
        "retrieved_from": 0 if retrieval is None else len(retrieval.pairs),
        "feature_network": None if features is None else features.name,
        "scores": scores_by_column,
        "intervals": {column: intervals([row[column] for row in rows]) for column in columns},
        "failures": {
            column: {
                row["name"]: one.failure
                for row, one in zip(rows, lifted, strict=True)
                if one.prediction is None
            }
            for column, lifted in lifts.items()
        },
        "relative_to_bounds": {
            column: relative_to_bounds(scores_by_column, column) for column in BASELINES
        },
        "stages": stage_costs(one for lifted in lifts.values() for one in lifted),
        "by_object": [_plain(row) for row in rows],
        "seconds": time.perf_counter() - began,
        "notes": list(NOTES),
    }


def summary(scores: list[Scores]) -> dict[str, float]:
    """Means over the objects that have the score; medians of rotation errors."""
    import numpy as np

    from loci.bench.objects.metrics import MEDIANS, METRICS

    found = {name: np.array([getattr(one, name) for one in scores]) for name in METRICS}
    finite = {name: values[np.isfinite(values)] for name, values in found.items()}
    return {
        name: float(np.median(values) if name in MEDIANS else values.mean())
        if len(values)
        else np.nan
        for name, values in finite.items()
    }


def intervals(scores: list[Scores]) -> dict[str, tuple[float, float]]:
    """95 % intervals of `summary`, by drawing the objects anew, with replacement."""
    import numpy as np

    rng = np.random.default_rng(0)
    drawn = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
    summaries = [summary([scores[i] for i in rows]) for rows in drawn.tolist()]
    found = {name: [one[name] for one in summaries] for name in summaries[0]}
    finite = {
        name: [x for x in values if np.isfinite(x)] or [np.nan] for name, values in found.items()
    }
    ends = {name: np.percentile(values, (2.5, 97.5)) for name, values in finite.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def relative_to_bounds(scores: dict[str, dict[str, float]], column: str) -> dict[str, float | None]:
    """Where each score lies between retrieval (0) and the upper bound (1)."""
    if UPPER_BOUND not in scores or BASELINES[column] not in scores:
        return {}
    low, high = scores[BASELINES[column]], scores[UPPER_BOUND]
    return {
        name: ratio(value - low[name], high[name] - low[name])
        for name, value in scores[column].items()
    }


def describe(results: dict[str, Any]) -> str:
    """All tables as text."""
    scores, relative = results["scores"], results["relative_to_bounds"]
    names = list(scores["with_pointmap"])
    rows = [[name, *(scores[column][name] for column in scores)] for name in names]
    rows.append(["failures", *(len(results["failures"].get(column, ())) for column in scores)])
    lines = [f"{results['objects']} held-out objects", table(["", *scores], rows), ""]
    spans = [
        [name, *(" to ".join(f"{x:.3g}" for x in results["intervals"][c][name]) for c in BASELINES)]
        for name in names
    ]
    lines += [table(["95 % interval", *BASELINES], spans), ""]
    if all(relative.values()):
        shares = [[name, *(relative[column][name] for column in BASELINES)] for name in names]
        lines += [table(["from retrieval (0) to upper bound (1)", *BASELINES], shares), ""]
    costs = [
        [stage, cost["seconds"], None if cost["peak_bytes"] is None else cost["peak_bytes"] / 2**20]
        for stage, cost in results["stages"].items()
    ]
    costs.append(["all", sum(cost[1] for cost in costs), None])
    lines += [table(["stage", "seconds", "peak MiB"], costs), ""]
    if results["feature_network"] is not None:
        lines.append(f"features for retrieval: {results['feature_network']}")
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def _check_any(lifts: dict[str, list[LiftedCase]]) -> None:
    """Failures alone mean that the model is at fault, not an object."""
    if all(one.prediction is None for lifted in lifts.values() for one in lifted):
        raise LociError(f"no object can be lifted: {lifts['with_pointmap'][0].failure}")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value._asdict() if hasattr(value, "_asdict") else value for key, value in row.items()
    }
