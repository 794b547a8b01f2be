"""One object lifted by every method from the same noise: what comes out, and what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.bench.objects.cases import Case
from loci.bench.objects.methods import EXACT, Method
from loci.bench.objects.metrics import Guess, Scores, score
from loci.bench.objects.quality import guess_of
from loci.caching.stats import StageStats, Stats
from loci.errors import LociError
from loci.flow import State
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.distance import surface_distance
from loci.objects.inputs.observation import ObservedPicture
from loci.objects.lifter import Lifter
from loci.objects.models.structure_flow import StructureFlow
from loci.objects.pipeline import LifterConfig, LiftPipeline, LiftResult
from loci.objects.sampling import OnStep, SamplerRunner, StructureSampling


class DifferenceToExact(NamedTuple):
    """How far an asset is from the one that exact makes of the same picture and noise.

    Attributes:
        chamfer: of the surfaces, in the object's own frame.
        f_score: at 0.05, 0 to 1.
        voxel_iou: of the structures, 0 to 1.
    """

    chamfer: float
    f_score: float
    voxel_iou: float


NOTHING = DifferenceToExact(float("nan"), 0.0, 0.0)


@dataclass(frozen=True)
class Run:
    """One object by one method.

    Attributes:
        name: of the object.
        marks: against the true object.
        to_exact: against exact.
        ledger: what was done and spared.
        speedup: seconds of exact over its own, both without loading.
        voxels: of stage 2, their number over that of exact.
        failure: why nothing came out.
    """

    name: str
    marks: Scores
    to_exact: DifferenceToExact
    ledger: Stats
    speedup: float
    voxels: float = 1.0
    failure: str | None = None

    @property
    def evaluations(self) -> int:
        """Of both flows' networks; a guided step takes two."""
        return sum(entry.made for entry in self.ledger.stages.values())


Known = dict[tuple[Any, StructureSampling, int], tuple[State, StageStats]]
"""Structures of one object and their cost, by what made them: the policy, the steps and how often
guidance is made anew."""


class Shared(SamplerRunner):
    """Takes the structure from an earlier run of the same object where it would be the same."""

    def __init__(self, method: Method, lifter: Lifter, known: Known) -> None:
        super().__init__(method.speed, laws=lifter.laws)
        self.known = known

    def structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        tell: OnStep,
    ) -> State:
        speed = self.speed
        key = speed.structure, self.fewer(settings), speed.guide_every
        if key not in self.known:
            made = super().structure(flow, condition, noise, settings, tell)
            self.known[key] = made, self.ledger.entry("structure")
        found, self.ledger.stages["structure"] = self.known[key]
        return found


class _Lift(NamedTuple):
    guess: Guess | None
    ledger: Stats
    failure: str | None = None

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.ledger.stages.values())


def run_all(
    lifter: Lifter,
    case: Case,
    methods: Sequence[Method],
    seed: int,
    told: Callable[[str], None] = lambda name: None,
) -> dict[str, Run]:
    """Runs of every method, by name.

    Exact runs before the others and again after them, and its seconds are the mean of both: what
    else the machine does changes slowly. Methods that treat the structure flow alike share one run
    of it, its seconds included.

    Args:
        lifter: that keeps its parts, which are in memory already.
        case: the object.
        methods: exact among them.
        seed: of the noise.
        told: called with a method's name before its run.
    """
    (exact,) = (method for method in methods if method.name == EXACT)
    known: Known = {}
    lifts = {exact.name: _lift(lifter, case, exact, seed, known)}
    for method in methods:
        told(method.name)
        if method.name not in lifts:
            lifts[method.name] = _lift(lifter, case, method, seed, known)
    first, again = lifts[exact.name], _lift(lifter, case, exact, seed, {})
    seconds = statistics.mean([first.seconds, again.seconds])
    return {
        name: Run(
            case.name,
            score(one.guess, case, case.placement),
            to_exact(one.guess, first.guess),
            one.ledger,
            1.0 if name == exact.name else seconds / one.seconds,
            _part(one.guess, first.guess),
            one.failure,
        )
        for name, one in lifts.items()
    }


def to_exact(guess: Guess | None, exact: Guess | None) -> DifferenceToExact:
    """Zero distance and full marks when both are the same."""
    if guess is None or exact is None:
        return NOTHING
    distance = surface_distance(guess.points, exact.points)
    grids = []
    for one in (guess, exact):
        grid = torch.zeros((one.resolution,) * 3, dtype=torch.bool)
        grid[one.voxels.long().unbind(1)] = True
        grids.append(grid)
    common, either = (grids[0] & grids[1]).sum(), (grids[0] | grids[1]).sum()
    return DifferenceToExact(distance.chamfer, distance.f_score, float(common / either))


def _part(guess: Guess | None, exact: Guess | None) -> float:
    """Of exact's voxels, by the splats, of which every voxel has the same number."""
    if guess is None or exact is None:
        return 1.0
    things = guess.thing, exact.thing
    few, all_of_them = (len(one) if isinstance(one, Gaussians) else 1 for one in things)
    return few / all_of_them


def lifted(
    lifter: Lifter, case: Case, config: LifterConfig, pace: SamplerRunner, seed: int
) -> tuple[ObservedPicture, LiftResult]:
    """The case's object as `lifter(...)` lifts it, by these settings and at this pace.

    Raises:
        LociError: when nothing is found.
    """
    view = ObservedPicture.read(case.pixels, case.pointmap)
    subject = view.subject(view.mask(case.mask), case.name, seed, config)
    (found,) = LiftPipeline(config, lifter.stages, [subject], pace).run()
    return view, found


def _lift(lifter: Lifter, case: Case, method: Method, seed: int, known: Known) -> _Lift:
    pace = Shared(method, lifter, known)
    try:
        view, found = lifted(lifter, case, method.config(lifter.config), pace, seed)
    except LociError as error:  # mostly: no voxel above threshold
        return _Lift(None, pace.ledger, str(error))
    return _Lift(guess_of(view.asset(found)), pace.ledger)
