"""Does the error budget mean what it says? Tolerances against true errors, of both flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from loci.bench.objects.cases import Case
from loci.bench.objects.speed_runs import lifted
from loci.bench.report import write_json
from loci.caching.calibration import ModelCalibration
from loci.caching.error_budget import ErrorScale, fit_error_scale, relative_error
from loci.caching.presets import LAYOUT, Preset
from loci.caching.spectral import DecodingConfig
from loci.caching.step_cache import StepCacheConfig
from loci.caching.token_cache import TokenCacheConfig
from loci.data.recordings import load_recordings
from loci.errors import LociError
from loci.flow import State, StepPolicy
from loci.io.files import check_writable
from loci.objects.lifter import Lifter
from loci.objects.models.slat_flow import SlatFlow
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.placement.voxels import VoxelChoice
from loci.objects.sampling import (
    LATENTS,
    OnStep,
    SamplerRunner,
    SlatSampling,
    StructureSampling,
    guided_interval,
    sample_latents,
    sample_structure,
    tokens_of,
)
from loci.world.world import World

if TYPE_CHECKING:
    from loci.caching.calibration import ModelCalibration as ModelCalibration


TOLERANCES = (0.01, 0.02, 0.04, 0.08, 0.16)
STAGES = ("structure", "latents")

Pairs = list[tuple[float, float]]
"""The tolerance and the true error of every run."""


class Tried(SamplerRunner):
    """Runs every flow exactly and, beside it, at every tolerance; goes on with what is exact.

    So all tolerances meet the same noise and the same voxels, and exact runs once. Errors are
    collected over all objects, as are the spectral ratios of those that were found.
    """

    def __init__(self, laws: ModelCalibration) -> None:
        super().__init__(Preset("tried", decoding=DecodingConfig("loci")))
        self.speeds = {tolerance: budgeted(tolerance, laws) for tolerance in TOLERANCES}
        self.pairs: dict[str, Pairs] = {stage: [] for stage in STAGES}
        self.details: list[float] = []

    def structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        tell: OnStep,
    ) -> State:
        def run(policy: StepPolicy | None = None) -> State:
            return sample_structure(flow, condition, noise, settings, policy)

        interval, exact = guided_interval(settings), run()
        for tolerance, speed in self.speeds.items():
            found = run(speed.structure_policy(interval))
            self.pairs["structure"].append((tolerance, relative_error(found, exact)))
        return exact

    def latents(
        self,
        flow: SlatFlow,
        condition: Float[Tensor, "1 m c"],
        choice: VoxelChoice,
        noise: Float[Tensor, "n c"],
        settings: SlatSampling,
        tell: OnStep,
        aligned: Float[Tensor, "n a"] | None = None,
    ) -> Float[Tensor, "n c"]:
        def run(policy: StepPolicy | None = None) -> State:
            found = sample_latents(
                flow, condition, voxels, noise, settings, policy, aligned=aligned
            )
            return {LATENTS: found}

        interval, voxels = guided_interval(settings), choice.voxels
        blocks, exact = tokens_of(voxels, len(flow.config.io_channels)), run()
        for tolerance, speed in self.speeds.items():
            found = run(speed.latent_policy(interval, choice.scores, blocks))
            self.pairs["latents"].append((tolerance, relative_error(found, exact)))
        if choice.detail is not None:
            self.details.append(choice.detail)
        return exact[LATENTS]


def tried(
    lifter: Lifter,
    cases: Sequence[Case],
    laws: ModelCalibration,
    seed: int,
    told: Callable[[str], None] = lambda name: None,
) -> Tried:
    """Every tolerance on these objects; those in which nothing is found have no second stage.

    Args:
        lifter: whose flows are run; nothing is decoded.
        cases: the objects.
        laws: under which the tolerances are tried, whatever those of the lifter are.
        seed: of the noise.
        told: called with an object's name before it is lifted.
    """
    found = Tried(laws)
    for case in cases:
        told(case.name)
        try:
            lifted(lifter, case, replace(lifter.config, decoders=()), found, seed)
        except LociError:  # mostly: no voxel above threshold
            continue
    return found


def budgeted(tolerance: float, laws: ModelCalibration) -> Preset:
    """Both flows with a tolerance, and the laws that say what it means."""
    one = ErrorScale()
    return Preset(
        f"tolerance {tolerance:g}",
        structure=StepCacheConfig(
            layout=LAYOUT, tolerance=tolerance, calibration=laws.structure or one
        ),
        latents=TokenCacheConfig(tolerance=tolerance, calibration=laws.latents or one),
    )


def fitted(pairs: Pairs) -> ErrorScale | None:
    """None where there is too little to fit: no errors, or all at one tolerance."""
    try:
        return fit_error_scale([p for p, _ in pairs], [t for _, t in pairs])
    except ValueError:
        return None


def error_budget(found: Tried, laws: ModelCalibration) -> dict[str, dict[str, Any]]:
    """By stage: its law, and what became of every tolerance."""
    known = asdict(laws)
    return {
        stage: {"law": known[stage], "held_out": shares(found.pairs[stage])} for stage in STAGES
    }


def shares(pairs: Pairs) -> list[dict[str, float]]:
    """For every tolerance the mean true error, the one that nine in ten are below, and the share
    of runs that kept within it."""
    lines = []
    for tolerance in sorted({p for p, _ in pairs}):
        errors = np.array([t for p, t in pairs if p == tolerance])
        lines.append(
            {
                "tolerance": tolerance,
                "error": float(errors.mean()),
                "error_9_in_10": float(np.quantile(errors, 0.9)),
                "kept": float((errors <= tolerance).mean()),
            }
        )
    return lines


WALK_TOLERANCES = (0.02, 0.05, 0.1, 0.2, 0.4)
CHUNKS = 4
"""Of every walk."""


class Recorded(NamedTuple):
    """A frame, and what was pressed after it."""

    frame: UInt8[np.ndarray, "s s 3"]
    actions: Int[np.ndarray, "n 2"]


def recorded(folder: Path, count: int) -> list[Recorded]:
    """The first walks of a data set, as made by loci data doom.

    Raises:
        LociError: when there are fewer, or they are damaged.
    """
    shards = load_recordings(folder, count)
    return [
        Recorded(frames[0], actions.astype(np.int64))
        for frames, actions in zip(shards.frames, shards.actions, strict=True)
    ]


def tried_walks(
    world: World,
    walks: list[Recorded],
    laws: ModelCalibration,
    seed: int,
    told: Callable[[], None] = lambda: None,
) -> Pairs:
    """The tolerance and the error of every chunk at every tolerance, from where exact came to.

    Args:
        world: at exact.
        walks: through which it goes, for a few chunks each.
        laws: under which the tolerances are tried.
        seed: of the noise.
        told: called after every walk.
    """
    law = laws.walk or ErrorScale()
    steps = {t: StepCacheConfig(tolerance=t, calibration=law) for t in WALK_TOLERANCES}
    spared = {t: world.at_speed(Preset("tried", walk=config)) for t, config in steps.items()}
    pairs: Pairs = []
    for frame, actions in walks:
        state = world.start(frame, seed)
        for at in range(0, min(CHUNKS * world.chunk, len(actions) - world.chunk), world.chunk):
            pressed = actions[at : at + world.chunk], actions[at + world.chunk]
            exact, _, after = world.generate(state, *pressed)
            for tolerance, other in spared.items():
                found = other.generate(state, *pressed)[0]
                error = relative_error({"video": found}, {"video": exact})
                pairs.append((tolerance, error))
            state = after
        told()
    return pairs


Told = Callable[[], None]
Found = tuple["ModelCalibration", dict[str, dict[str, Any]]]
"""ModelCalibration, and what became of every tolerance under them, as `speed_budget.error_budget` has it."""


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

    from loci.bench.objects.speed import budget_table
    from loci.caching.calibration import CALIBRATION_NAME as CALIBRATION_NAME
    from loci.objects.lifter import SHIPPED
    from loci.objects.pipeline import LIFTER_NAME

    folder = SHIPPED / model if (SHIPPED / model).is_dir() else Path(model)
    if not folder.is_dir():
        raise LociError(f"{model}: no such model folder, expected one or a shipped model")
    check_writable(folder / CALIBRATION_NAME)
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
    print(f"written: {folder / CALIBRATION_NAME}")


def measured(found: Tried, before: ModelCalibration) -> ModelCalibration:
    """The laws that follow. A flow that skips nothing at any tolerance has none.

    Raises:
        LociError: when nothing was found in any picture.
    """
    from dataclasses import replace

    import torch

    from loci.caching.spectral import thresholds

    if not found.details:
        raise LociError("no object can be lifted, expected a trained model")
    fits: dict[str, Any] = {stage: fitted(found.pairs[stage]) for stage in STAGES}
    return replace(before, decoding=thresholds(torch.tensor(found.details)), **fits)


def _lifter(
    folder: Path, data: Path, counts: tuple[int, int], seed: int, device: str, told: Told
) -> Found:
    from loci.bench.objects.cases import HeldOut
    from loci.caching.calibration import ModelCalibration
    from loci.objects.lifter import Lifter

    lifter = Lifter.from_pretrained(folder, device, keep=True)
    known, unknown = (HeldOut.load(data / part, seed, 0) for part in ("train", "test"))

    def run(some: HeldOut, count: int, laws: ModelCalibration) -> Tried:
        cases = [some.case(number) for number in some.chosen(count)]
        return tried(lifter, cases, laws, seed, lambda name: told())

    laws = measured(run(known, counts[0], ModelCalibration()), lifter.laws)
    return laws, error_budget(run(unknown, counts[1], laws), laws)


def _world(
    folder: Path, data: Path, counts: tuple[int, int], seed: int, device: str, told: Told
) -> Found:
    from dataclasses import asdict, replace

    from loci.caching.calibration import ModelCalibration
    from loci.world.world import World

    world = World.from_pretrained(folder, device)
    known, unknown = (
        recorded(data / part, count) for part, count in zip(("train", "test"), counts, strict=True)
    )
    law = fitted(tried_walks(world, known, ModelCalibration(), seed, told))
    laws = replace(world.laws, walk=law)
    pairs = tried_walks(world, unknown, laws, seed, told)
    return laws, {"walk": {"law": law and asdict(law), "held_out": shares(pairs)}}
