"""The model's own guesses, with what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from loci.bench.objects_cases import Case
from loci.bench.objects_marks import Guess, surface_points
from loci.errors import LociError
from loci.geometry.rotations import quaternion_matrix
from loci.objects.asset import Asset
from loci.objects.costs import StageCost
from loci.objects.lifter import Lifter
from loci.objects.nominal import Placement


class Lift(NamedTuple):
    """A guess, or why there is none, and the cost of every stage."""

    guess: Guess | None
    costs: tuple[StageCost, ...]
    failure: str | None = None


def lift(
    lifter: Lifter, case: Case, with_pointmap: bool, seed: int, guesses: int | None = None
) -> Lift:
    """The case's object as a user lifts it.

    Without a pointmap the pose is that of the nominal scene, as `Case.nominal` is.
    """
    pointmap = case.pointmap if with_pointmap else None
    try:
        asset = lifter(case.pixels, case.mask, pointmap, seed, guesses=guesses)
    except LociError as error:  # mostly: no voxel above threshold
        return Lift(None, (), str(error))
    return Lift(guess_of(asset), asset.costs)


def guess_of(asset: Asset) -> Guess:
    """Judged by its mesh, drawn by its Gaussians; by either, where there is no other."""
    shape, look = asset.mesh or asset.gaussians, asset.gaussians or asset.mesh
    assert shape is not None, "an asset has splats or a mesh"
    assert look is not None
    placement = Placement(
        quaternion_matrix(asset.pose.rotation), asset.pose.translation, asset.pose.scale[:, 0]
    )
    return Guess(surface_points(shape), asset.voxels, asset.resolution, look, placement)


def stage_costs(lifts: Iterable[Lift]) -> dict[str, dict[str, float | int | None]]:
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
