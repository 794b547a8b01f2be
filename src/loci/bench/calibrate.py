"""`loci bench calibrate`: what a tolerance means for a model, measured and kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.report import write_json
from loci.errors import LociError
from loci.files import check_writable

if TYPE_CHECKING:
    from loci.acceleration.laws import Laws
    from loci.bench.speed_budget import Tried

Told = Callable[[], None]
Found = tuple["Laws", dict[str, dict[str, Any]]]
"""Laws, and what became of every tolerance under them, as `speed_budget.error_budget` has it."""


def calibrate(
    model: str = "home",
    data: Path | None = None,
    train: int = 12,
    held_out: int = 12,
    seed: int = 0,
    device: str = "cpu",
    json: Path | None = None,
) -> None:
    """What does a tolerance mean for a model? Measured on training data, kept in its folder.

    The flows run exactly and at five tolerances. From then on the model reads the laws, and
    --tolerance and the named speeds mean true errors; the table shows how they are kept on data
    that it was not trained on.

    Args:
        model: a shipped model or a folder, of objects or of a world; calibration.json is written
            into it.
        data: folder with train and test, as made by loci data objects or loci data doom;
            runs/objects or runs/data by default.
        train: on how many training objects or walks laws are fitted.
        held_out: on how many others they are tried.
        seed: of the views, the backgrounds and the noise.
        device: where to compute: cpu, cuda or mps.
        json: where to write the table as well.
    """
    for name, count in (("--train", train), ("--held-out", held_out)):
        if count < 1:
            raise LociError(f"{name}: {count}, expected at least 1")
    if json is not None:
        check_writable(json)

    from tqdm import tqdm

    from loci.acceleration.laws import LAWS_NAME
    from loci.bench.speed import budget_table
    from loci.objects.lifter import SHIPPED
    from loci.objects.lifting import LIFTER_NAME

    folder = SHIPPED / model if (SHIPPED / model).is_dir() else Path(model)
    if not folder.is_dir():
        raise LociError(f"{model}: no such model folder, expected one or a shipped model")
    check_writable(folder / LAWS_NAME)
    lifts = (folder / LIFTER_NAME).is_file()
    data = data or Path("runs/objects" if lifts else "runs/data")
    with tqdm(total=train + held_out) as bar:

        def told() -> None:
            bar.update()

        measure = _lifter if lifts else _world
        laws, budget = measure(folder, data, (train, held_out), seed, device, told)
    laws.write(folder)
    if json is not None:
        write_json(json, {"model": model, "data": str(data), "seed": seed, "error_budget": budget})
    for stage, found in budget.items():
        if found["law"] is None:
            print(f"{stage}: no step is skipped at any tolerance, so nothing can be fitted")
    print("\n".join(budget_table(budget)))
    print(f"written: {folder / LAWS_NAME}")


def measured(found: Tried, before: Laws) -> Laws:
    """The laws that follow. A flow that skips nothing at any tolerance has none.

    Raises:
        LociError: when nothing was found in any picture.
    """
    from dataclasses import replace

    import torch

    from loci.acceleration.spectral import thresholds
    from loci.bench.speed_budget import STAGES, fitted

    if not found.details:
        raise LociError("no object can be lifted, expected a trained model")
    fits: dict[str, Any] = {stage: fitted(found.pairs[stage]) for stage in STAGES}
    return replace(before, decoding=thresholds(torch.tensor(found.details)), **fits)


def _lifter(
    folder: Path, data: Path, counts: tuple[int, int], seed: int, device: str, told: Told
) -> Found:
    from loci.acceleration.laws import Laws
    from loci.bench.objects_cases import HeldOut
    from loci.bench.speed_budget import error_budget, tried
    from loci.objects.lifter import Lifter

    lifter = Lifter.from_pretrained(folder, device, keep=True)
    known, unknown = (HeldOut.load(data / part, seed, 0) for part in ("train", "test"))

    def run(some: HeldOut, count: int, laws: Laws) -> Tried:
        cases = [some.case(number) for number in some.chosen(count)]
        return tried(lifter, cases, laws, seed, lambda name: told())

    laws = measured(run(known, counts[0], Laws()), lifter.laws)
    return laws, error_budget(run(unknown, counts[1], laws), laws)


def _world(
    folder: Path, data: Path, counts: tuple[int, int], seed: int, device: str, told: Told
) -> Found:
    from dataclasses import asdict, replace

    from loci.acceleration.laws import Laws
    from loci.bench.speed_budget import fitted, shares
    from loci.bench.walk_budget import recorded, tried_walks
    from loci.world.world import World

    world = World.from_pretrained(folder, device)
    known, unknown = (
        recorded(data / part, count) for part, count in zip(("train", "test"), counts, strict=True)
    )
    law = fitted(tried_walks(world, known, Laws(), seed, told))
    laws = replace(world.laws, walk=law)
    pairs = tried_walks(world, unknown, laws, seed, told)
    return laws, {"walk": {"law": law and asdict(law), "held_out": shares(pairs)}}
