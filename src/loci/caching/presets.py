"""Named speeds: which policy each stage of a run gets.

A `Preset` holds settings only; its methods make the policies, afresh for every run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from loci.caching.calibration import ModelCalibration
from loci.caching.error_budget import Interval
from loci.caching.published.token_carving import CarvingConfig, PaperCarving, ReleasedCarving
from loci.caching.spectral import DecodingConfig
from loci.caching.step_cache import StepCacheConfig, step_cache
from loci.caching.token_cache import TokenCache, TokenCacheConfig
from loci.errors import LociError
from loci.flow import Always, StepPolicy

StructurePolicies = Callable[[Interval | None], StepPolicy]
"""Makes a policy for one run of the structure flow, guided between two timesteps."""
LatentPolicies = Callable[[Interval | None, Tensor, Tensor], StepPolicy]
"""Makes a policy for one run of the latent flow; arguments as of `Preset.latent_policy`."""
WalkPolicies = Callable[[], StepPolicy]
"""Makes a policy for one chunk of a walk."""

UNCALIBRATED = "the tolerance is not calibrated on this model: true errors may exceed it"

GUIDED_ONCE = 1_000
"""As `Preset.guide_every`: the first guided evaluation alone makes both velocities."""

LAYOUT = ("6drotation_normalized", "scale", "translation", "translation_scale")
"""The tensors of SAM 3D Objects' first stage that say where an object stands."""


@dataclass(frozen=True)
class Preset:
    """What is spared, stage by stage; None spares nothing.

    A flow takes settings of the policies of this package, or a function that makes a policy of any
    other kind afresh for every run.

    Args:
        name: what it is called.
        structure: steps of the structure flow.
        latents: steps and tokens of the latent flow.
        decoding: the resolution of the voxels that are decoded.
        prune: drop interior voxels, as the original pipeline does and the published fast one
            does not.
        dropped: of the voxels that were found, the share that goes at random, for comparison.
        walk: steps and tokens of a chunk of a walk.
        walk_steps: the part of a chunk's Euler steps that is taken; the steps are longer.
        structure_steps: the same of the structure flow of a lift.
        latent_steps: the same of its latent flow.
        guide_every: in a lift, of how many guided evaluations one makes the unconditional velocity
            anew (`flow.guidance.guided_within`).
    """

    name: str
    structure: StepCacheConfig | StructurePolicies | None = None
    latents: CarvingConfig | TokenCacheConfig | StepCacheConfig | LatentPolicies | None = None
    decoding: DecodingConfig | None = None
    prune: bool = True
    dropped: float = 0.0
    walk: StepCacheConfig | TokenCacheConfig | WalkPolicies | None = None
    walk_steps: float = 1.0
    structure_steps: float = 1.0
    latent_steps: float = 1.0
    guide_every: int = 1

    def structure_policy(self, interval: Interval | None) -> StepPolicy:
        """For one run of the structure flow, guided between two timesteps."""
        if isinstance(self.structure, StepCacheConfig):
            return step_cache(self.structure, interval)
        return Always() if self.structure is None else self.structure(interval)

    def latent_policy(
        self,
        interval: Interval | None,
        scores: Float[Tensor, "n"],
        blocks: Int[Tensor, "n"],
    ) -> StepPolicy:
        """For one run of the latent flow.

        Args:
            interval: the timesteps between which it is guided.
            scores: of every voxel, from `spectral.token_scores`.
            blocks: which voxels the network holds as one token (`Voxels.coarser.parent`).
        """
        match self.latents:
            case None:
                return Always()
            case StepCacheConfig() as config:
                return step_cache(config, interval)
            case TokenCacheConfig() as config:
                return TokenCache(config, interval, blocks)
            case CarvingConfig(mode="released") as config:
                return ReleasedCarving(config, scores)
            case CarvingConfig() as config:
                return PaperCarving(config, scores, blocks)
            case make:
                return make(interval, scores, blocks)

    def walk_policy(self) -> StepPolicy:
        """For one chunk of a walk."""
        match self.walk:
            case None:
                return Always()
            case StepCacheConfig() as config:
                return step_cache(config)
            case TokenCacheConfig() as config:
                return TokenCache(config)
            case make:
                return make()

    def within(self, tolerance: float) -> "Preset":
        """In mode `loci`, spending so much error in every flow; other mechanisms stay.

        Raises:
            LociError: for a tolerance that is no number from 0 on.
        """
        if not 0 <= tolerance < math.inf:
            raise LociError(f"tolerance: {tolerance:g}, expected a number from 0 on")

        def cache(given: object, layout: tuple[str, ...]) -> StepCacheConfig:
            base = given if isinstance(given, StepCacheConfig) else StepCacheConfig(layout=layout)
            return replace(base, mode="loci", tolerance=tolerance)

        latents = self.latents if isinstance(self.latents, TokenCacheConfig) else None
        walk = self.walk
        return replace(
            self,
            name=f"{self.name}, tolerance {tolerance:g}",
            structure=cache(self.structure, LAYOUT),
            latents=replace(latents or TokenCacheConfig(), tolerance=tolerance),
            walk=replace(walk, tolerance=tolerance)
            if isinstance(walk, TokenCacheConfig)
            else cache(walk, ()),
            walk_steps=1.0,
            structure_steps=1.0,
            latent_steps=1.0,
            guide_every=1,
        )

    def calibrated(self, laws: ModelCalibration) -> "Preset":
        """What it means for a model of which these laws were measured.

        Only what is left open is filled in: a calibration or thresholds of its own stay.
        """
        measured: dict[str, Any] = {
            name: replace(getattr(self, name), calibration=getattr(laws, name))
            for name in self.uncalibrated
        }
        if self.decoding is not None and self.decoding.mode == "loci":
            measured["decoding"] = self.decoding.at(laws.decoding)
        return replace(self, **measured)

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """The flows that have a tolerance of predicted errors, as nobody said what they become."""
        return tuple(
            name for name in ("structure", "latents", "walk") if _spends(getattr(self, name))
        )


def _spends(stage: object) -> bool:
    """Whether errors are budgeted, in a unit that is left to the model."""
    if not isinstance(stage, StepCacheConfig | TokenCacheConfig):
        return False
    return bool(stage.tolerance) and stage.calibration is None


def exact() -> Preset:
    """Everything is evaluated."""
    return Preset("exact")


def released() -> Preset:
    """Fast-SAM3D as its published code does it, with the settings of its script."""
    return Preset(
        "released",
        StepCacheConfig("released", layout=LAYOUT),
        CarvingConfig("released"),
        DecodingConfig("released"),
        prune=False,
    )


def paper() -> Preset:
    """Fast-SAM3D as its paper describes it."""
    return Preset(
        "paper",
        StepCacheConfig("paper", layout=LAYOUT),
        CarvingConfig("paper"),
        DecodingConfig("paper"),
        prune=False,
    )


def fast() -> Preset:
    """Ours, with an error that should not be seen."""
    return Preset(
        "fast",
        decoding=DecodingConfig("loci"),
        structure_steps=0.5,
        latent_steps=0.5,
        guide_every=2,
        walk_steps=0.5,
    )


def faster() -> Preset:
    """Ours, with an error that may be seen."""
    return Preset(
        "faster",
        decoding=DecodingConfig("loci"),
        structure_steps=1 / 3,
        latent_steps=0.125,
        guide_every=GUIDED_ONCE,
        walk_steps=0.25,
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    make.__name__: make for make in (exact, fast, faster, released, paper)
}


def as_preset(given: "str | Preset | None") -> Preset:
    """A speed as it is given, or by its name; exact for None.

    Raises:
        LociError: when there is none of that name.
    """
    if given is None:
        return exact()
    return preset(given) if isinstance(given, str) else given


def preset(name: str, tolerance: float | None = None) -> Preset:
    """The speed of a name, or what it becomes within a tolerance of its own (`Preset.within`).

    Raises:
        LociError: when there is none of that name, or the tolerance is no number from 0 on.
    """
    if name not in PRESETS:
        raise LociError(f"unknown speed {name!r}: expected one of {', '.join(PRESETS)}")
    chosen = PRESETS[name]()
    return chosen if tolerance is None else chosen.within(tolerance)
