"""The model's own guesses, with what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from loci.bench.objects.cases import Case
from loci.bench.objects.metrics import Guess, surface_points
from loci.bench.report import QUICK_OBJECTS, ObjectPlan, ratio, table, write_json
from loci.errors import LociError
from loci.geometry.rotations import quaternion_to_matrix
from loci.io.files import check_writable
from loci.objects.asset import Asset
from loci.objects.costs import StageCost
from loci.objects.inputs.pointmap import Placement
from loci.objects.lifter import Lifter

if TYPE_CHECKING:
    from loci.bench.objects.bounds import Ceiling
    from loci.bench.objects.cases import HeldOut
    from loci.bench.objects.metrics import Scores as Marks
    from loci.data.objects.dataset import ObjectSet
    from loci.objects.lifter import Lifter


class LiftedCase(NamedTuple):
    """A guess, or why there is none, and the cost of every stage."""

    guess: Guess | None
    costs: tuple[StageCost, ...]
    failure: str | None = None


def lift(
    lifter: Lifter, case: Case, with_pointmap: bool, seed: int, guesses: int | None = None
) -> LiftedCase:
    """The case's object as a user lifts it.

    Without a pointmap the pose is that of the nominal scene, as `Case.nominal` is.
    """
    pointmap = case.pointmap if with_pointmap else None
    try:
        asset = lifter(case.pixels, case.mask, pointmap, seed, guesses=guesses)
    except LociError as error:  # mostly: no voxel above threshold
        return LiftedCase(None, (), str(error))
    return LiftedCase(guess_of(asset), asset.costs)


def guess_of(asset: Asset) -> Guess:
    """Judged by its mesh, drawn by its Gaussians; by either, where there is no other."""
    shape, look = asset.mesh or asset.gaussians, asset.gaussians or asset.mesh
    assert shape is not None, "an asset has splats or a mesh"
    assert look is not None
    placement = Placement(
        quaternion_to_matrix(asset.pose.rotation), asset.pose.translation, asset.pose.scale[:, 0]
    )
    return Guess(surface_points(shape), asset.voxels, asset.resolution, look, placement)


def stage_costs(lifts: Iterable[LiftedCase]) -> dict[str, dict[str, float | int | None]]:
    """Of every stage, in order, the mean seconds and the highest peak of memory."""
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


OURS = {"pointmap": "retrieval_pointmap", "alone": "retrieval_alone"}
"""The columns that are the model's, and with which of the baseline's each is compared."""
CEILING = "ceiling"
NOTES = (
    "one view of each object; chamfer, f_score (at 0.05), voxel_iou and psnr (of views that are "
    "not shown) in the object's own frame; box_iou, rotation and turn (medians, degrees) as it is "
    "placed",
    "turn: the rotation error where turns about the vertical that nobody can see are none",
    "alone: without a pointmap, and the true pose measured by the object's distance",
    "retrieval: the training object whose picture is nearest by image features",
    "ceiling: the true object, at its true place, through both autoencoders",
    "seconds: with loading, mean of a run; memory: the most that the whole process held",
)


def objects(
    json: Path,
    quick: bool = False,
    seed: int = 0,
    model: str = "home",
    data: Path = Path("runs/objects"),
    structure_codec: Path = Path("runs/structure_codec"),
    latent_codec: Path = Path("runs/latent_codec"),
    device: str = "cpu",
    guesses: int | None = None,
) -> None:
    """What becomes of held-out objects: shape, place, look and cost, beside two baselines.

    Args:
        json: where to write the results.
        quick: fewer objects and fewer pictures to retrieve from.
        seed: of the views, the backgrounds and the noise.
        model: a shipped model, a folder or a hub id.
        data: folder with the objects train and test, as made by loci data objects.
        structure_codec: the run that trained the model's voxel autoencoder, for the ceiling.
        latent_codec: the run that trained its other autoencoder, for the ceiling.
        device: where to lift: cpu, cuda or mps.
        guesses: at each shape, of which the best is taken; as the model says by default.
    """
    check_writable(json)

    from loci.bench.objects.bounds import Ceiling, missing
    from loci.bench.objects.cases import HeldOut
    from loci.data.objects.dataset import ObjectSet
    from loci.objects.lifter import Lifter

    plan = QUICK_OBJECTS if quick else ObjectPlan()
    lifter = Lifter.from_pretrained(model, device)
    held_out = HeldOut.load(data / "test", seed, plan.views)
    train = ObjectSet.load(data / "train")
    reason = missing(structure_codec, latent_codec)
    ceiling = None if reason else Ceiling.load(structure_codec, latent_codec)
    results = measure(lifter, held_out, train, ceiling, plan, guesses)
    unmeasured = {CEILING: reason} if reason else {}
    asked = {"model": model, "data": str(data), "device": device, "quick": quick, "seed": seed}
    asked |= {"guesses": lifter.config.guesses if guesses is None else guesses}
    write_json(json, {**asked, "not_measured": unmeasured, **results})
    print(describe(results))
    for name, why in unmeasured.items():
        print(f"no {name}: {why}")


def measure(
    lifter: Lifter,
    held_out: HeldOut,
    train: ObjectSet,
    ceiling: Ceiling | None,
    plan: ObjectPlan,
    guesses: int | None = None,
) -> dict[str, Any]:
    """All that goes into the JSON, besides what was asked for.

    Raises:
        LociError: when not one object can be lifted, or the packages of the features are missing.
    """
    from tqdm import tqdm

    from loci.bench.metrics import Features
    from loci.bench.objects.bounds import Retrieval
    from loci.bench.objects.metrics import mark_elsewhere
    from loci.bench.objects.metrics import score as mark

    began, features = time.perf_counter(), Features()
    numbers = held_out.chosen(plan.objects)
    rows: list[dict[str, Any]] = []
    lifts: dict[str, list[LiftedCase]] = {column: [] for column in OURS}
    for number in tqdm(numbers, desc="lifting", unit=" objects"):
        case = held_out.case(number)
        row: dict[str, Any] = {"name": case.name, "view": case.view}
        for column in OURS:
            known = column == "pointmap"
            done = lift(lifter, case, known, held_out.seed, guesses)
            lifts[column].append(done)
            row[column] = mark(done.guess, case, case.placement if known else case.nominal)
        rows.append(row)
    _check_any(lifts)
    retrieval = Retrieval(
        train, plan.retrievable, features, lambda pairs: iter(tqdm(pairs, desc="looking"))
    )
    for row, number in zip(rows, tqdm(numbers, desc="comparing", unit=" objects"), strict=True):
        case = held_out.case(number)
        found = retrieval.guess(case)
        row["retrieved"] = found.name
        marks = mark(found.known, case, case.placement)
        row["retrieval_pointmap"] = marks
        row["retrieval_alone"] = mark_elsewhere(marks, found.alone, case, case.nominal)
        if ceiling is not None:
            row[CEILING] = mark(ceiling.guess(case), case, case.placement)
    columns = [*OURS, *OURS.values(), *([CEILING] if ceiling is not None else [])]
    figures = {column: summary([row[column] for row in rows]) for column in columns}
    return {
        "objects": len(rows),
        "retrieved_from": len(retrieval.pairs),
        "feature_network": features.name,
        "figures": figures,
        "failures": {
            column: {
                row["name"]: one.failure
                for row, one in zip(rows, made, strict=True)
                if one.guess is None
            }
            for column, made in lifts.items()
        },
        "share_of_the_way": {column: share_of_the_way(figures, column) for column in OURS},
        "stages": stage_costs(one for made in lifts.values() for one in made),
        "by_object": [_plain(row) for row in rows],
        "seconds": time.perf_counter() - began,
        "notes": list(NOTES),
    }


def summary(marks: list[Marks]) -> dict[str, float]:
    """Means over the objects that have the figure; of the rotation, the median."""
    import numpy as np

    from loci.bench.objects.metrics import FIGURES, TYPICAL

    found = {name: np.array([getattr(one, name) for one in marks]) for name in FIGURES}
    finite = {name: values[np.isfinite(values)] for name, values in found.items()}
    return {
        name: float(np.median(values) if name in TYPICAL else values.mean())
        if len(values)
        else np.nan
        for name, values in finite.items()
    }


def share_of_the_way(figures: dict[str, dict[str, float]], column: str) -> dict[str, float | None]:
    """How far each figure has come from retrieval (0) to the ceiling (1); below 0 it lost."""
    if CEILING not in figures:
        return {}
    start, end = figures[OURS[column]], figures[CEILING]
    return {
        name: ratio(value - start[name], end[name] - start[name])
        for name, value in figures[column].items()
    }


def describe(results: dict[str, Any]) -> str:
    """The tables."""
    figures, way = results["figures"], results["share_of_the_way"]
    rows = [[name, *(figures[column][name] for column in figures)] for name in figures["alone"]]
    rows.append(["failures", *(len(results["failures"].get(column, ())) for column in figures)])
    lines = [f"{results['objects']} held-out objects", table(["", *figures], rows), ""]
    if CEILING in figures:
        shares = [[name, *(way[column][name] for column in OURS)] for name in figures["alone"]]
        lines += [table(["from retrieval (0) to ceiling (1)", *OURS], shares), ""]
    costs = [
        [stage, cost["seconds"], None if cost["peak_bytes"] is None else cost["peak_bytes"] / 2**20]
        for stage, cost in results["stages"].items()
    ]
    costs.append(["all", sum(cost[1] for cost in costs), None])
    lines += [table(["stage", "seconds", "peak MiB"], costs), ""]
    lines.append(f"features for retrieval: {results['feature_network']}")
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def _check_any(lifts: dict[str, list[LiftedCase]]) -> None:
    """One failure says something about an object; failures only, about the model."""
    if all(one.guess is None for made in lifts.values() for one in made):
        raise LociError(f"no object can be lifted: {lifts['pointmap'][0].failure}")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value._asdict() if hasattr(value, "_asdict") else value for key, value in row.items()
    }
