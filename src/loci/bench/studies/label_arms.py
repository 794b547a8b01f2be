"""Labels of the same noisy films by several rules, and how often each is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import bisect

from loci.actions import UNCERTAIN
from loci.bench.labels import CHANNELS, Agreement, camera_poses, exact_motion
from loci.bench.studies.pose_noise import FREIBURG, PoseNoise, Unit, noisy_cameras
from loci.labels.motion import between, spans, trajectory_motion
from loci.labels.tristate import MIN_TURN, SHARE_OF_STRIDE, label_motion, true_ids, typical

Arm = Literal["oracle", "per frame", "one threshold", "two fixed", "ours", "ours, dropped"]
ARMS: tuple[Arm, ...] = get_args(Arm)
FACTORS = (0.5, 1.0, 2.0)
"""Of the noise, one film after the other: films differ in how well they can be tracked."""


@dataclass(frozen=True)
class ArmLabels:
    """Labels of all steps of some films by one rule.

    Attributes:
        ids: move and view ids of the step from frame t to t + 1.
        used: whether the frame that a step leads to is trained on.
    """

    ids: Int[np.ndarray, "n t 2"]
    used: Bool[np.ndarray, "n t"]


@dataclass(frozen=True)
class ArmThresholds:
    """Where motion of a fifth of a second begins to count, from the true motion of all films: what
    rules without an estimate of the noise are given.

    Attributes:
        unit: what a moving step does.
        move, view: the thresholds.
    """

    unit: Unit
    move: float
    view: float

    @classmethod
    def of(cls, poses: Float[np.ndarray, "n t 3"], fps: float) -> ArmThresholds:
        motions = [exact_motion(camera_poses(film), fps) for film in poses]
        span = motions[0].span
        floor = MIN_TURN * span / fps
        sizes = {}
        for name, least in (("move", 0.0), ("view", floor / 3)):
            motion = np.concatenate([getattr(m, name) for m in motions])
            sigma = np.full(len(motion), max(least, 1e-9))
            sizes[name] = typical(motion, sigma, np.ones(len(motion), bool))
        unit = Unit(sizes["move"], sizes["view"])
        view = max(SHARE_OF_STRIDE * unit.turn, floor)
        return cls(unit, SHARE_OF_STRIDE * unit.stride, view)


def oracle(
    poses: Float[np.ndarray, "n t 3"], thresholds: ArmThresholds, fps: float
) -> Int[np.ndarray, "n t-1 2"]:
    """What the true motion over a fifth of a second is called, with one threshold."""
    motions = [exact_motion(camera_poses(film), fps) for film in poses]
    return np.stack([_single(m.move, m.view, thresholds) for m in motions])


def _single(
    move: Float[np.ndarray, "t 2"],
    view: Float[np.ndarray, "t 2"],
    at: ArmThresholds,
    share: float = 1,
) -> Int[np.ndarray, "t 2"]:
    return np.column_stack([true_ids(move, share * at.move), true_ids(view, share * at.view)])


def label_films(
    poses: Float[np.ndarray, "n t 3"],
    thresholds: ArmThresholds,
    fps: float,
    seed: int,
    noise: PoseNoise = FREIBURG,
) -> dict[Arm, ArmLabels]:
    """Labels of every arm, of the same noisy trajectories.

    "per frame" measures motion from frame to frame, all others over a fifth of a second. "two
    fixed" has the same two thresholds in all films, so far apart that as many labels are certain as
    of "ours", which are those of `loci label`. "ours, dropped" are the same, and frames with an
    uncertain one are not trained on.

    Args:
        poses: true ones: x, y, and heading in degrees.
        thresholds: of the arms without an estimate of the noise.
        fps: frames per second.
        seed: of the noise.
        noise: its spectrum.
    """
    rng = np.random.default_rng([seed, 15])
    cameras = [
        noisy_cameras(film, noise, thresholds.unit, FACTORS[k % len(FACTORS)], rng, fps)
        for k, film in enumerate(poses)
    ]
    motions = [trajectory_motion(film, fps) for film in cameras]
    span = motions[0].span
    single = [between(film, *spans(len(film) - 1, 1)) for film in cameras]
    ours = np.stack([label_motion(motion).ids for motion in motions])
    move, view = (np.stack([getattr(m, name) for m in motions]) for name in CHANNELS)
    kept = (ours != UNCERTAIN).mean(axis=(0, 1))
    fixed = [
        _two_fixed(move, thresholds.move, float(kept[0])),
        _two_fixed(view, thresholds.view, float(kept[1])),
    ]
    ids: dict[Arm, np.ndarray] = {
        "oracle": oracle(poses, thresholds, fps),
        "per frame": np.stack([_single(*pair, thresholds, 1 / span) for pair in single]),
        "one threshold": np.stack([_single(m.move, m.view, thresholds) for m in motions]),
        "two fixed": np.stack(fixed, axis=-1),
        "ours": ours,
        "ours, dropped": ours,
    }
    return {
        arm: ArmLabels(
            labels,
            (labels != UNCERTAIN).all(axis=-1) | (arm != "ours, dropped"),
        )
        for arm, labels in ids.items()
    }


def _two_fixed(
    motion: Float[np.ndarray, "n t 2"], threshold: float, kept: float
) -> Int[np.ndarray, "n t"]:
    """Two thresholds either side of one, for all films, that keep a share of the steps."""
    size = np.hypot(motion[..., 0], motion[..., 1])
    away = np.abs(size - threshold)
    half = 0.0
    if kept < 1:
        half = float(bisect(lambda h: (away >= h).mean() - kept, 0.0, size.max() + threshold))  # type: ignore
    ids = np.stack([true_ids(film, threshold) for film in motion])
    ids[away < half] = UNCERTAIN
    return ids


def quality(labels: ArmLabels, true: Int[np.ndarray, "n t 2"]) -> dict[str, float]:
    """Certain labels, and wrong ones among them: of each channel, of both together, and of frames
    that stand still."""
    result = {}
    for column, channel in enumerate(CHANNELS):
        agreement = Agreement.of(labels.ids[..., column].ravel(), true[..., column].ravel())
        result[f"{channel}_kept"], result[f"{channel}_wrong"] = agreement.kept, agreement.wrong
    certain = (labels.ids != UNCERTAIN).all(axis=-1)
    right = (labels.ids == true).all(axis=-1)
    result["both_kept"] = float(certain.mean())
    result["both_wrong"] = float((~right)[certain].mean()) if certain.any() else 0.0
    still = (true == 0).all(axis=-1)
    still &= certain
    result["still_wrong"] = float((~right)[still].mean()) if still.any() else 0.0
    return result
