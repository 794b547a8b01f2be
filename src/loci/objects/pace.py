"""The two flows at the speed of a run: policies made, watched, and checked if wanted."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from loci.acceleration.laws import Laws
from loci.acceleration.ledger import Ledger, StageEntry
from loci.acceleration.progress import Interval, is_guided
from loci.acceleration.speeds import UNCALIBRATED, Speed, chosen_speed
from loci.flow.policy import State
from loci.flow.schedule import TIMESTEPS, rescaled_times
from loci.layers.sparse import Voxels
from loci.objects.latent_flow import LatentFlow
from loci.objects.latent_sampling import LATENTS, LatentSampling, sample_latents
from loci.objects.structure_flow import StructureFlow
from loci.objects.structure_sampling import StructureSampling, sample_structure
from loci.objects.voxel_choice import VoxelChoice

OnStep = Callable[[int, State], None]
Settings = TypeVar("Settings", StructureSampling, LatentSampling)


class Pace:
    """A speed with the ledger of one run or of several.

    What the speed leaves open the model's `laws` say. With `verify` every flow runs a second time,
    exactly, from the same noise and on the same voxels. What that costs is not in the ledger, and
    what it finds does not change the run.
    """

    def __init__(
        self,
        speed: str | Speed | None = None,
        ledger: Ledger | None = None,
        verify: bool = False,
        laws: Laws | None = None,
    ) -> None:
        self.speed, self.verify = chosen_speed(speed).calibrated(laws or Laws()), verify
        self.ledger = ledger if ledger is not None else Ledger()
        if {"structure", "latents"} & set(self.speed.uncalibrated):
            self.ledger.note(UNCALIBRATED)

    def timed(self, stage: str) -> AbstractContextManager[StageEntry]:
        """Adds the seconds of the block to the stage."""
        return self.ledger.timed(stage)

    def steps(self, settings: Settings) -> int:
        """How many Euler steps of a flow are taken."""
        return self.fewer(settings).steps

    def fewer(self, settings: Settings) -> Settings:
        """With as many of its steps as are taken."""
        of_structure = isinstance(settings, StructureSampling)
        part = self.speed.structure_steps if of_structure else self.speed.latent_steps
        return settings.fewer(part)

    def structure(
        self,
        flow: StructureFlow,
        condition: Float[Tensor, "1 m c"],
        noise: State,
        settings: StructureSampling,
        tell: OnStep,
    ) -> State:
        """Stage 1 of an object; arguments as of `sample_structure`."""
        interval, every = guided_interval(settings), self.speed.guide_every
        taken = self.fewer(settings)
        policy = self.speed.structure_policy(interval)
        with self.timed("structure") as entry:
            watched = self.ledger.watched("structure", policy, interval, every)
            found = sample_structure(flow, condition, noise, taken, watched, tell, every)
            entry.exact += evaluations(settings) - evaluations(taken)
        if self.verify:
            exact = sample_structure(flow, condition, noise, settings)
            self.ledger.verified("structure", found, exact)
        return found

    def latents(
        self,
        flow: LatentFlow,
        condition: Float[Tensor, "1 m c"],
        choice: VoxelChoice,
        noise: Float[Tensor, "n c"],
        settings: LatentSampling,
        tell: OnStep,
        aligned: Float[Tensor, "n a"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Stage 2 of an object; arguments as of `sample_latents`."""
        interval, voxels = guided_interval(settings), choice.voxels
        blocks = tokens_of(voxels, len(flow.config.io_channels))
        policy = self.speed.latent_policy(interval, choice.scores, blocks)
        taken, every = self.fewer(settings), self.speed.guide_every
        with self.timed("latents") as entry:
            watched = self.ledger.watched("latents", policy, interval, every)
            found = sample_latents(
                *(flow, condition, voxels, noise, taken, watched, tell, every, aligned)
            )
            entry.exact += evaluations(settings) - evaluations(taken)
        if self.verify:
            exact = sample_latents(flow, condition, voxels, noise, settings, aligned=aligned)
            self.ledger.verified("latents", {LATENTS: found}, {LATENTS: exact})
        return found


def guided_interval(settings: StructureSampling | LatentSampling) -> Interval | None:
    """The timesteps between which a flow takes two evaluations; None if it never does."""
    shortcut = isinstance(settings, StructureSampling) and settings.shortcut
    return None if shortcut or settings.guidance <= 0 else settings.interval


def evaluations(settings: StructureSampling | LatentSampling) -> int:
    """Of the network in a whole run, guided ones counted twice."""
    times = rescaled_times(settings.steps, settings.rescale)[:-1] * TIMESTEPS
    interval = guided_interval(settings)
    return len(times) + sum(is_guided(step, times, interval) for step in range(len(times)))


def tokens_of(voxels: Voxels, levels: int) -> Tensor:
    """For every voxel the token that stands for it so many levels further down, as a label."""
    labels = voxels.coarser.parent
    for _ in range(levels - 1):
        voxels = voxels.coarser.voxels
        labels = voxels.coarser.parent[labels]
    return labels
