"""`loci bench speed`: time that presets and caches save in a lift, and quality that they lose."""

from __future__ import annotations

import dataclasses
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.data import check_objects
from loci.bench.report import QUICK_SPEED, SpeedPlan, table, write_json
from loci.bench.tolerances import tolerance_table
from loci.errors import LociError
from loci.io.files import check_writable

if TYPE_CHECKING:
    from loci.bench.objects.cases import HeldOutObjects
    from loci.bench.objects.methods import Method
    from loci.bench.objects.speed_runs import Run
    from loci.objects.lifter import Lifter


FLOWS = ("structure", "slat")
STAGES = ("pictures", "structure", "voxels", "slat", "decoding")
COLUMNS = (
    *("speedup", "chamfer", "fscore", "voxel_iou", "box_iou", "rotation_error", "psnr"),
    *("fscore_to_exact", "evaluations"),
)
NOTES = (
    "every row lifts the same objects from the same pictures and noise, in one process; seconds "
    "are means without loading; speedup: the median over objects of exact's seconds over the "
    "row's",
    "fscore in points of 100 at 0.05; rotation_error: median, degrees; *_to_exact: against "
    "exact's result for the same object",
    "methods with the same structure flow share one run of it, its seconds included",
    "an asset that the preset released shrinks is measured as it comes out, without its pose",
)


def speed(
    json: Path,
    quick: bool = False,
    seed: int = 0,
    model: str = "home",
    data: Path = Path("runs/objects"),
    device: str = "cpu",
    objects: int | None = None,
    rows: tuple[str, ...] = (),
    plot: Path | None = None,
) -> None:
    """Measure speed and quality of faster ways to lift, on held-out objects.

    Args:
        json: where to write the results.
        quick: fewer objects.
        seed: seed of the views, the backgrounds and the noise.
        model: a shipped model, a folder or a hub id.
        data: folder with the objects test, as made by loci data objects.
        device: where to lift: cpu, cuda or mps.
        objects: how many; 32 by default, 2 with --quick.
        rows: names of the methods to measure beside exact, without the table of tolerances; all
            by default.
        plot: the plot of speed-up against loss; beside the results by default.
    """
    plot = plot or json.with_suffix(".png")
    if plot.absolute() == json.absolute():
        raise LociError(f"--plot: {plot} is also --json, expected another file")
    if objects is not None and objects < 1:
        raise LociError(f"--objects: {objects}, expected at least 1")
    for path in (json, plot):
        check_writable(path)
    check_objects(data, "test")

    from loci.bench.calibrate_lifts import STAGES as CALIBRATED
    from loci.bench.calibrate_lifts import run_tolerances
    from loci.bench.objects.cases import HeldOutObjects
    from loci.bench.objects.methods import select_methods
    from loci.bench.objects.speed_plot import check_drawable, draw
    from loci.bench.tolerances import tolerance_report
    from loci.objects.lifter import Lifter

    check_drawable()
    plan, methods = QUICK_SPEED if quick else SpeedPlan(), select_methods(seed, rows)
    lifter = Lifter.from_pretrained(model, device, keep=True)
    held_out = HeldOutObjects.load(data / "test", seed, plan.views)
    results = measure(lifter, held_out, methods, objects or plan.objects, seed)
    calibration = dataclasses.asdict(lifter.calibration)
    if not rows:
        cases = [held_out.case(index) for index in held_out.indices(plan.tolerance_objects)]
        sampler = run_tolerances(lifter, cases, lifter.calibration, seed)
        results["tolerances"] = {
            stage: tolerance_report(calibration[stage], sampler.errors[stage])
            for stage in CALIBRATED
        }
    asked = {"model": model, "data": str(data), "device": device, "quick": quick, "seed": seed}
    asked |= {"calibration": calibration}
    write_json(json, {**asked, **results})
    draw(plot, results["rows"])
    print(describe(results))
    print(f"written: {json}, {plot}")


def measure(
    lifter: Lifter, held_out: HeldOutObjects, methods: list[Method], objects: int | None, seed: int
) -> dict[str, Any]:
    """All results, without the arguments.

    Raises:
        LociError: when exact finds nothing in any picture.
    """
    from tqdm import tqdm

    from loci.bench.objects.speed_runs import lift_case, run_all
    from loci.objects.sampling import PresetSampler

    began, indices = time.perf_counter(), held_out.indices(objects)
    runs: dict[str, list[Run]] = {method.name: [] for method in methods}
    with tqdm(total=len(indices) * len(methods), unit=" lifts") as bar:

        def progress(name: str) -> None:
            bar.set_description(name, refresh=False)
            bar.update()

        for number, index in enumerate(indices):
            case = held_out.case(index)
            if number == 0:  # loads the parts; the first run is slower than the others
                with suppress(LociError):
                    lift_case(lifter, case, lifter.config, PresetSampler(), seed)
            for name, run in run_all(lifter, case, methods, seed, progress).items():
                runs[name].append(run)
    if all(run.failure for run in runs[methods[0].name]):
        raise LociError(f"no object can be lifted: {runs[methods[0].name][0].failure}")
    return {
        "objects": len(indices),
        "rows": {
            method.name: {"group": method.group, **row(runs[method.name])} for method in methods
        },
        "seconds": time.perf_counter() - began,
        "notes": list(NOTES),
    }


def row(runs: list[Run]) -> dict[str, Any]:
    """The figures of a method."""
    from loci.bench.objects.quality import summary

    scores, successes = summary([run.scores for run in runs]), [r for r in runs if not r.failure]
    stages = [run.stats.stages for run in successes]
    factors = [s["decoding"].decoding_factor for s in stages]
    return {
        "speedup": _median([run.speedup for run in successes]),
        "chamfer": scores["chamfer"],
        "fscore": 100 * scores["f_score"],
        "voxel_iou": scores["voxel_iou"],
        "box_iou": scores["box_iou"],
        "rotation_error": scores["rotation_error"],
        "psnr": scores["psnr"],
        "evaluations": _mean([run.evaluations for run in successes]),
        "seconds": {stage: _mean([s[stage].seconds for s in stages]) for stage in STAGES},
        "chamfer_to_exact": _mean([run.to_exact.chamfer for run in successes]),
        "fscore_to_exact": _mean([100 * run.to_exact.f_score for run in successes]),
        "voxel_iou_to_exact": _mean([run.to_exact.voxel_iou for run in successes]),
        "shares": _shares(successes),
        "decoding_factor": _mean([1.0 if f is None else f for f in factors]),
        "failures": len(runs) - len(successes),
        "runs": [_run(run) for run in runs],
    }


def _run(run: Run) -> dict[str, Any]:
    """One object by one method."""
    return {
        "object": run.name,
        "speedup": None if run.failure else run.speedup,
        **run.scores._asdict(),
        "stats": run.stats.to_dict(),
    }


def _shares(runs: list[Run]) -> dict[str, Any]:
    """The shares of exact's computation: evaluations of each flow's network, tokens in an
    evaluation of stage 2, and voxels of stage 2."""
    stages = [run.stats.stages for run in runs]
    evaluations = {
        flow: _mean([s[flow].evaluations / s[flow].exact_evaluations for s in stages])
        for flow in FLOWS
    }
    return {
        **evaluations,
        "tokens": _mean([s["slat"].active_share or 0.0 for s in stages]),
        "voxels": _mean([run.voxels for run in runs]),
    }


def describe(results: dict[str, Any]) -> str:
    """The tables as text."""
    rows = [
        [
            name,
            *(figures[column] for column in COLUMNS),
            *(figures["seconds"][stage] for stage in STAGES),
        ]
        for name, figures in results["rows"].items()
    ]
    head = ["", *(name.replace("_", " ") for name in COLUMNS), *(f"{name} s" for name in STAGES)]
    lines = [f"{results['objects']} held-out objects", table(head, rows), ""]
    lines += tolerance_table(results.get("tolerances", {}))
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
