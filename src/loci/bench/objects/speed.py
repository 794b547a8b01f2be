"""`loci bench speed`: what do the ways to spare computation cost, and what do they save?"""

from __future__ import annotations

import dataclasses
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.report import QUICK_SPEED, SpeedPlan, table, write_json
from loci.errors import LociError
from loci.io.files import check_writable

if TYPE_CHECKING:
    from loci.bench.objects.cases import HeldOut
    from loci.bench.objects.methods import Method
    from loci.bench.objects.speed_runs import Run
    from loci.objects.lifter import Lifter


FLOWS = ("structure", "latents")
STAGES = ("pictures", "structure", "voxels", "latents", "decoding")
COLUMNS = (
    *("speedup", "chamfer", "fscore", "voxel_iou", "box_iou", "rotation_error", "psnr"),
    *("fscore_to_exact", "evaluations"),
)
NOTES = (
    "every row lifts the same objects from the same pictures and noise, in one process; seconds "
    "are means without loading; speedup: the median over objects of exact's seconds over the "
    "row's own",
    "fscore in points of 100 at 0.05; rotation_error: median, degrees; *_to_exact: against what "
    "exact made of the same object",
    "methods that treat the structure flow alike share one run of it, its seconds included",
    "an asset that mode released shrinks is measured as it comes out, without its pose",
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
    """What do the ways to spare computation cost, and what do they save? On held-out objects.

    Args:
        json: where to write the results.
        quick: fewer objects.
        seed: of the views, the backgrounds and the noise.
        model: a shipped model, a folder or a hub id.
        data: folder with the objects train and test, as made by loci data objects.
        device: where to lift: cpu, cuda or mps.
        objects: how many, in place of those of the quick or the full measure.
        rows: names of the methods to measure beside exact, without the table of the error budget;
            all by default.
        plot: the picture of speed against loss; beside the results by default.
    """
    plot = plot or json.with_suffix(".png")
    if plot.absolute() == json.absolute():
        raise LociError(f"--plot: {plot} is also --json, expected another file")
    for path in (json, plot):
        check_writable(path)

    from loci.bench.calibrate import error_budget, tried
    from loci.bench.objects.cases import HeldOut
    from loci.bench.objects.methods import chosen_methods
    from loci.bench.objects.speed_plot import check_drawable, draw
    from loci.objects.lifter import Lifter

    check_drawable()
    plan, compared = QUICK_SPEED if quick else SpeedPlan(), chosen_methods(seed, rows)
    if objects is not None and objects < 1:
        raise LociError(f"--objects: {objects}, expected at least 1")
    lifter = Lifter.from_pretrained(model, device, keep=True)
    held_out = HeldOut.load(data / "test", seed, plan.views)
    results = measure(lifter, held_out, compared, objects or plan.objects, seed)
    if not rows:
        cases = [held_out.case(number) for number in held_out.chosen(plan.budget)]
        found = tried(lifter, cases, lifter.laws, seed)
        results["error_budget"] = error_budget(found, lifter.laws)
    asked = {"model": model, "data": str(data), "device": device, "quick": quick, "seed": seed}
    asked |= {"laws": dataclasses.asdict(lifter.laws)}
    write_json(json, {**asked, **results})
    draw(plot, results["rows"])
    print(describe(results))
    print(f"written: {json}, {plot}")


def measure(
    lifter: Lifter, held_out: HeldOut, methods: list[Method], objects: int | None, seed: int
) -> dict[str, Any]:
    """All that goes into the JSON, besides what was asked for.

    Raises:
        LociError: when exact finds nothing in any picture.
    """
    from tqdm import tqdm

    from loci.bench.objects.speed_runs import lifted, run_all
    from loci.objects.sampling import SamplerRunner as Pace

    began, numbers = time.perf_counter(), held_out.chosen(objects)
    runs: dict[str, list[Run]] = {method.name: [] for method in methods}
    with tqdm(total=len(numbers) * len(methods), unit=" lifts") as bar:

        def told(name: str) -> None:
            bar.set_description(name, refresh=False)
            bar.update()

        for place, number in enumerate(numbers):
            case = held_out.case(number)
            if place == 0:  # loads the parts, and wakes what only the first run wakes
                with suppress(LociError):
                    lifted(lifter, case, lifter.config, Pace(), seed)
            for name, run in run_all(lifter, case, methods, seed, told).items():
                runs[name].append(run)
    if all(run.failure for run in runs[methods[0].name]):
        raise LociError(f"no object can be lifted: {runs[methods[0].name][0].failure}")
    return {
        "objects": len(numbers),
        "rows": {
            method.name: {"group": method.group, **row(runs[method.name])} for method in methods
        },
        "seconds": time.perf_counter() - began,
        "notes": list(NOTES),
    }


def row(runs: list[Run]) -> dict[str, Any]:
    """The figures of a method."""
    from loci.bench.objects.quality import summary

    marks, worked = summary([run.marks for run in runs]), [r for r in runs if not r.failure]
    ledgers = [run.ledger.stages for run in worked]
    factors = [s["decoding"].decoding_factor for s in ledgers]
    return {
        "speedup": _median([run.speedup for run in worked]),
        "chamfer": marks["chamfer"],
        "fscore": 100 * marks["f_score"],
        "voxel_iou": marks["voxel_iou"],
        "box_iou": marks["box_iou"],
        "rotation_error": marks["rotation"],
        "psnr": marks["psnr"],
        "evaluations": _mean([run.evaluations for run in worked]),
        "seconds": {stage: _mean([s[stage].seconds for s in ledgers]) for stage in STAGES},
        "chamfer_to_exact": _mean([run.to_exact.chamfer for run in worked]),
        "fscore_to_exact": _mean([100 * run.to_exact.f_score for run in worked]),
        "voxel_iou_to_exact": _mean([run.to_exact.voxel_iou for run in worked]),
        "shares": _shares(worked),
        "decoding_factor": _mean([1.0 if f is None else f for f in factors]),
        "failures": len(runs) - len(worked),
        "runs": [_run(run) for run in runs],
    }


def _run(run: Run) -> dict[str, Any]:
    """One object by one method."""
    return {
        "object": run.name,
        "speedup": None if run.failure else run.speedup,
        **run.marks._asdict(),
        "ledger": run.ledger.to_dict(),
    }


def _shares(runs: list[Run]) -> dict[str, Any]:
    """What was computed of what exact computes: evaluations of each flow's network, tokens in an
    evaluation of the latents', and voxels of stage 2."""
    ledgers = [run.ledger.stages for run in runs]
    return {
        **{flow: _mean([s[flow].made / s[flow].exact for s in ledgers]) for flow in FLOWS},
        "tokens": _mean([s["latents"].active_share or 0.0 for s in ledgers]),
        "voxels": _mean([run.voxels for run in runs]),
    }


def describe(results: dict[str, Any]) -> str:
    """The tables."""
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
    lines += budget_table(results.get("error_budget", {}))
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def budget_table(found: dict[str, Any]) -> list[str]:
    """What tolerances became, a line for each."""
    rows = [
        [stage, *(line[name] for name in ("tolerance", "error", "error_9_in_10", "kept"))]
        for stage, budget in found.items()
        for line in budget["held_out"]
    ]
    head = ["error budget", "tolerance", "true error", "9 in 10 below", "share within"]
    return [table(head, rows), ""] if rows else []


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
