"""`loci bench calibrate`: measure what an error tolerance means for a model, and keep it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.data import check_objects, check_walks
from loci.bench.report import write_json
from loci.bench.tolerances import fit_scale, tolerance_report, tolerance_table
from loci.errors import LociError
from loci.io.config_files import LIFTER_NAME
from loci.io.files import check_writable
from loci.io.models import SHIPPED

if TYPE_CHECKING:
    from loci.acceleration.calibration import ModelCalibration


Calibrated = tuple["ModelCalibration", dict[str, dict[str, Any]]]
"""A calibration, and by stage how well tolerances are kept with it."""


def calibrate(
    model: str = "home",
    data: Path | None = None,
    train: int = 12,
    held_out: int = 12,
    seed: int = 0,
    device: str = "cpu",
    json: Path | None = None,
) -> None:
    """Calibrate the error tolerances of a model on training data, and test them on held-out data.

    The flows run exactly and at five tolerances. The calibration is written into the model's
    folder; --tolerance and the presets use it from then on.

    Args:
        model: a shipped model or a folder, of objects or of a world.
        data: folder with train and test, as made by loci data objects or loci data doom;
            runs/objects or runs/data by default.
        train: how many training objects or walks to fit on.
        held_out: how many others to test on.
        seed: seed of the views, the backgrounds and the noise.
        device: where to compute: cpu, cuda or mps.
        json: where to write the table as well.
    """
    for name, count in (("--train", train), ("--held-out", held_out)):
        if count < 1:
            raise LociError(f"{name}: {count}, expected at least 1")
    if json is not None:
        check_writable(json)
    folder = SHIPPED / model if (SHIPPED / model).is_dir() else Path(model)
    if not folder.is_dir():
        raise LociError(f"{model}: no such model folder, expected one or a shipped model")
    is_lifter = (folder / LIFTER_NAME).is_file()
    data = data or Path("runs/objects" if is_lifter else "runs/data")
    (check_objects if is_lifter else check_walks)(data, "train", "test")

    from tqdm import tqdm

    from loci.acceleration.calibration import CALIBRATION_NAME

    check_writable(folder / CALIBRATION_NAME)
    run = calibrate_lifter if is_lifter else calibrate_world
    with tqdm(total=train + held_out) as bar:

        def progress() -> None:
            bar.update()

        calibration, reports = run(folder, data, (train, held_out), seed, device, progress)
    calibration.write(folder)
    if json is not None:
        write_json(json, {"model": model, "data": str(data), "seed": seed, "tolerances": reports})
    for stage, report in reports.items():
        if report["calibration"] is None:
            print(f"{stage}: no step is skipped at any tolerance, so nothing can be fitted")
    print("\n".join(tolerance_table(reports)))
    print(f"written: {folder / CALIBRATION_NAME}")


def calibrate_lifter(
    folder: Path,
    data: Path,
    counts: tuple[int, int],
    seed: int,
    device: str,
    progress: Callable[[], None],
) -> Calibrated:
    """Calibrate both flows and decoding; arguments as for `calibrate`."""
    from loci.acceleration.calibration import ModelCalibration
    from loci.bench.calibrate_lifts import (
        STAGES,
        ToleranceSampler,
        fit_calibration,
        run_tolerances,
    )
    from loci.bench.objects.cases import HeldOutObjects
    from loci.objects.lifter import Lifter

    lifter = Lifter.from_pretrained(folder, device, keep=True)

    def run(part: str, count: int, calibration: ModelCalibration) -> ToleranceSampler:
        objects = HeldOutObjects.load(data / part, seed, 0)
        cases = [objects.case(index) for index in objects.indices(count)]
        return run_tolerances(lifter, cases, calibration, seed, progress)

    fitted = run("train", counts[0], ModelCalibration())
    calibration = fit_calibration(fitted, lifter.calibration)
    known, tested = asdict(calibration), run("test", counts[1], calibration)
    return calibration, {
        stage: tolerance_report(known[stage], tested.errors[stage]) for stage in STAGES
    }


def calibrate_world(
    folder: Path,
    data: Path,
    counts: tuple[int, int],
    seed: int,
    device: str,
    progress: Callable[[], None],
) -> Calibrated:
    """Calibrate the chunks of a walk; arguments as for `calibrate`."""
    from loci.acceleration.calibration import ModelCalibration
    from loci.bench.calibrate_walks import read_walks, walk_errors
    from loci.world.world import World

    world = World.from_pretrained(folder, device)
    train, test = (
        read_walks(data / part, count)
        for part, count in zip(("train", "test"), counts, strict=True)
    )
    scale = fit_scale(walk_errors(world, train, ModelCalibration(), seed, progress))
    calibration = replace(world.calibration, walk=scale)
    tested = walk_errors(world, test, calibration, seed, progress)
    return calibration, {"walk": tolerance_report(scale and asdict(scale), tested)}
