"""Presets: named trade-offs between speed and accuracy, for each stage of a run.

A `Preset` holds settings only; its methods make the policies, new ones for every run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.error_budget import Interval
from loci.acceleration.spectral import DecodingConfig
from loci.acceleration.step_cache import StepCacheConfig, StridedStepCacheConfig
from loci.acceleration.token_cache import TokenCacheConfig
from loci.errors import LociError, check_tolerance
from loci.flow import EvaluateAll, StepPolicy

UNCALIBRATED = "the tolerance is not calibrated on this model: true errors may exceed it"

LAYOUT_LATENTS = ("6drotation_normalized", "scale", "translation", "translation_scale")
"""The tensors of SAM 3D Objects' first stage that say where an object stands."""

PRESETS = {
    "exact": "loci.acceleration.presets:exact",
    "fast": "loci.acceleration.presets:fast",
    "faster": "loci.acceleration.presets:faster",
    "released": "loci.acceleration.published.published_presets:released",
    "paper": "loci.acceleration.published.published_presets:paper",
}
"""Where each preset is made. A module is imported when one of its presets is asked for."""


@runtime_checkable
class PolicyConfig(Protocol):
    """Settings that make a policy for one run; arguments as for `Preset.slat_policy`.

    Stages without scores and groups leave them out.
    """

    def policy(
        self, interval: Interval | None, scores: Tensor, group_ids: Tensor, /
    ) -> StepPolicy: ...


PolicyMaker = PolicyConfig | Callable[..., StepPolicy]
"""Settings, or a function with the arguments of the stage's policy method."""


@dataclass(frozen=True)
class Preset:
    """The approximations of every stage; None makes a stage exact.

    Args:
        name: what reports call it.
        structure: policy of the structure flow; a function gets the interval of guidance.
        slat: policy of the SLAT flow; a function gets the arguments of `slat_policy`.
        decoding: the grid on which voxels are decoded.
        prunes_interior: drop interior voxels, as SAM 3D Objects does and Fast-SAM3D does not.
        drop_voxels: (voxels, generator) -> the voxels that remain; a baseline.
        walk: policy of each chunk of a walk; a function gets no arguments.
        walk_step_share: the share of a chunk's sampling steps that is taken, each of them longer.
        structure_step_share: the same for the structure flow of a lift.
        slat_step_share: the same for the SLAT flow of a lift.
        guide_every: in a lift, the unconditional velocity is evaluated at one guided step in this
            many (`loci.flow.interval_guidance`); None: at the first guided step only.
    """

    name: str
    structure: PolicyMaker | None = None
    slat: PolicyMaker | None = None
    decoding: DecodingConfig | None = None
    prunes_interior: bool = True
    drop_voxels: Callable[[Tensor, torch.Generator], Tensor] | None = None
    walk: PolicyMaker | None = None
    walk_step_share: float = 1.0
    structure_step_share: float = 1.0
    slat_step_share: float = 1.0
    guide_every: int | None = 1

    def structure_policy(self, interval: Interval | None) -> StepPolicy:
        """For one run of the structure flow, guided within the interval."""
        return _policy(self.structure, interval)

    def slat_policy(
        self, interval: Interval | None, scores: Float[Tensor, "n"], group_ids: Int[Tensor, "n"]
    ) -> StepPolicy:
        """For one run of the SLAT flow.

        Args:
            interval: the timesteps between which it is guided.
            scores: the score of every voxel, from `loci.acceleration.spectral.token_scores`.
            group_ids: the group of every voxel; the network merges voxels with equal ids.
        """
        return _policy(self.slat, interval, scores, group_ids)

    def walk_policy(self) -> StepPolicy:
        """For one chunk of a walk."""
        return _policy(self.walk)

    def within(self, tolerance: float) -> "Preset":
        """With this error tolerance in every flow, in place of fewer steps and rarer guidance.

        Raises:
            LociError: for a tolerance that is negative or not finite.
        """
        check_tolerance(tolerance)
        structure = self.structure if isinstance(self.structure, StepCacheConfig) else None
        slat = self.slat if isinstance(self.slat, TokenCacheConfig) else None
        walk = self.walk if isinstance(self.walk, StepCacheConfig | TokenCacheConfig) else None
        return replace(
            self,
            name=f"{self.name}, tolerance {tolerance:g}",
            structure=replace(
                structure or StepCacheConfig(layout=LAYOUT_LATENTS), tolerance=tolerance
            ),
            slat=replace(slat or TokenCacheConfig(), tolerance=tolerance),
            walk=replace(walk or StepCacheConfig(), tolerance=tolerance),
            walk_step_share=1.0,
            structure_step_share=1.0,
            slat_step_share=1.0,
            guide_every=1,
        )

    def calibrated(self, calibration: ModelCalibration) -> "Preset":
        """With a model's calibration and thresholds, where it has none of its own."""
        changed: dict[str, Any] = {
            name: replace(getattr(self, name), calibration=getattr(calibration, name))
            for name in self.uncalibrated
        }
        if self.decoding is not None:
            changed["decoding"] = self.decoding.with_thresholds(calibration.decoding)
        return replace(self, **changed)

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """The flows with a tolerance whose errors are predicted without a calibration."""
        return tuple(
            name
            for name in ("structure", "slat", "walk")
            if isinstance(stage := getattr(self, name), StepCacheConfig | TokenCacheConfig)
            and stage.tolerance > 0
            and stage.calibration is None
        )


def _policy(maker: PolicyMaker | None, *args: Any) -> StepPolicy:
    if maker is None:
        return EvaluateAll()
    return maker.policy(*args) if isinstance(maker, PolicyConfig) else maker(*args)


def exact() -> Preset:
    """No approximation."""
    return Preset("exact")


def fast() -> Preset:
    """Half the steps of a lift, guidance every other step, voxels merged by spectrum.

    No visible loss. Of a walk's steps every other one is evaluated after the first two.
    """
    return Preset(
        "fast",
        decoding=DecodingConfig(),
        structure_step_share=0.5,
        slat_step_share=0.5,
        guide_every=2,
        walk=StridedStepCacheConfig(stride=2),
    )


def faster() -> Preset:
    """Even fewer steps, guidance evaluated once, voxels merged by spectrum. Losses may show.

    Of a walk's steps every third one is evaluated after the first two.
    """
    return Preset(
        "faster",
        decoding=DecodingConfig(),
        structure_step_share=1 / 3,
        slat_step_share=0.125,
        guide_every=None,
        walk=StridedStepCacheConfig(stride=3),
    )


def as_preset(preset: "str | Preset | None") -> Preset:
    """A preset, given as such or by name; `exact` for None.

    Raises:
        LociError: for an unknown name.
    """
    if preset is None:
        return exact()
    return get_preset(preset) if isinstance(preset, str) else preset


def get_preset(name: str, tolerance: float | None = None) -> Preset:
    """The preset of this name, or what it becomes within a tolerance (`Preset.within`).

    Raises:
        LociError: for an unknown name, or a tolerance that is negative or not finite.
    """
    if name not in PRESETS:
        raise LociError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    preset: Preset = resolve_name(PRESETS[name])()
    return preset if tolerance is None else preset.within(tolerance)
