"""One object lifted by every method from the same noise: scores and statistics."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from loci.acceleration.stats import StageStats, Stats
from loci.bench.objects.cases import Case
from loci.bench.objects.methods import EXACT, Method
from loci.bench.objects.metrics import Prediction, Scores, score
from loci.errors import LociError
from loci.flow import OnStep, State
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.distance import surface_distance
from loci.objects.asset import Asset
from loci.objects.config import LifterConfig
from loci.objects.inputs.observation import ObservedPicture
from loci.objects.lifter import Lifter
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.pipeline import LiftPipeline, LiftResult
from loci.objects.sampling import PresetSampler, StructureSampling


class DifferenceToExact(NamedTuple):
    """Distance of an asset from exact's, of the same picture and noise.

    Attributes:
        chamfer: of the surfaces, in the object's own frame.
        f_score: at 0.05, 0 to 1.
        voxel_iou: of the structures, 0 to 1.
    """

    chamfer: float
    f_score: float
    voxel_iou: float


FAILED = DifferenceToExact(float("nan"), 0.0, 0.0)


@dataclass(frozen=True)
class Run:
    """One object by one method.

    Attributes:
        name: of the object.
        scores: against the true object.
        to_exact: against exact.
        stats: of both flows and the decoders.
        speedup: seconds of exact over its own, both without loading.
        voxels: of stage 2, their number over that of exact.
        failure: why nothing was found.
    """

    name: str
    scores: Scores
    to_exact: DifferenceToExact
    stats: Stats
    speedup: float
    voxels: float = 1.0
    failure: str | None = None

    @property
    def evaluations(self) -> int:
        """Evaluations of both flows' networks; a guided step takes two."""
        return sum(stage.evaluations for stage in self.stats.stages.values())


Structures = dict[tuple[Any, StructureSampling, int | None], tuple[State, StageStats]]
"""Structures of one object with their statistics, by policy, settings and guidance interval."""


class SharedStructureSampler(PresetSampler):
    """Reuses the structure of an earlier run of the same object where it would be the same."""

    def __init__(self, method: Method, lifter: Lifter, structures: Structures) -> None:
        super().__init__(method.preset, calibration=lifter.calibration)
        self.structures = structures

    def run_structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        on_step: OnStep,
    ) -> State:
        preset = self.preset
        key = preset.structure, self.fewer_steps(settings), preset.guide_every
        if key not in self.structures:
            latents = super().run_structure(flow, condition, noise, settings, on_step)
            self.structures[key] = latents, self.stats.stage("structure")
        latents, self.stats.stages["structure"] = self.structures[key]
        return latents


class _Lift(NamedTuple):
    prediction: Prediction | None
    stats: Stats
    failure: str | None = None

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stats.stages.values())


def run_all(
    lifter: Lifter,
    case: Case,
    methods: Sequence[Method],
    seed: int,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Run]:
    """Runs of every method, by name.

    Exact runs before the others and again after them; its seconds are the mean of both, against
    slow changes of the machine's load. Methods with the same structure flow share one run of it,
    its seconds included.

    Args:
        lifter: with its parts kept in memory.
        case: the object.
        methods: exact among them.
        seed: seed of the noise.
        progress: called with a method's name before its run.
    """
    (exact,) = (method for method in methods if method.name == EXACT)
    structures: Structures = {}
    lifts = {exact.name: _lift(lifter, case, exact, seed, structures)}
    for method in methods:
        progress(method.name)
        if method.name not in lifts:
            lifts[method.name] = _lift(lifter, case, method, seed, structures)
    first, again = lifts[exact.name], _lift(lifter, case, exact, seed, {})
    seconds = statistics.mean([first.seconds, again.seconds])
    return {
        name: Run(
            case.name,
            score(one.prediction, case, case.pose),
            difference_to_exact(one.prediction, first.prediction),
            one.stats,
            1.0 if name == exact.name else seconds / one.seconds,
            _voxel_share(one.prediction, first.prediction),
            one.failure,
        )
        for name, one in lifts.items()
    }


def difference_to_exact(
    prediction: Prediction | None, exact: Prediction | None
) -> DifferenceToExact:
    """Surfaces and voxels compared; `FAILED` without one of them."""
    if prediction is None or exact is None:
        return FAILED
    distance = surface_distance(prediction.points, exact.points)
    common, union = prediction.grid & exact.grid, prediction.grid | exact.grid
    iou = float(common.sum() / union.sum())
    return DifferenceToExact(distance.chamfer, distance.f_score, iou)


def _voxel_share(prediction: Prediction | None, exact: Prediction | None) -> float:
    """The number of voxels over exact's, by the Gaussians, of which each voxel has as many."""
    if prediction is None or exact is None:
        return 1.0
    models = prediction.model, exact.model
    few, all_of_them = (len(model) if isinstance(model, Gaussians) else 1 for model in models)
    return few / all_of_them


def lift_case(
    lifter: Lifter, case: Case, config: LifterConfig, sampler: PresetSampler, seed: int
) -> tuple[ObservedPicture, LiftResult]:
    """The case's object as `lifter(...)` lifts it, with these settings and this sampler.

    Raises:
        LociError: when nothing is found.
    """
    picture = ObservedPicture.read(case.pixels, case.pointmap)
    mask = picture.mask(case.mask)
    request = picture.request(mask, case.name, seed, config.input_size)
    (result,) = LiftPipeline(config, lifter.loader, [request], sampler).run()
    return picture, result


def _lift(lifter: Lifter, case: Case, method: Method, seed: int, structures: Structures) -> _Lift:
    sampler = SharedStructureSampler(method, lifter, structures)
    try:
        picture, result = lift_case(lifter, case, method.config(lifter.config), sampler, seed)
    except LociError as error:  # mostly: no voxel above threshold
        return _Lift(None, sampler.stats, str(error))
    return _Lift(Prediction.from_asset(Asset.from_result(picture, result)), sampler.stats)
