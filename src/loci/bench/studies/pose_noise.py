"""Noise of estimated camera poses: a white part and a slow one, fitted to a trajectory's residuals.

The mean squared difference of a residual over a lag t is taken to be
2 white^2 + 2 slow^2 (1 - exp(-t / seconds)): white noise, and an Ornstein-Uhlenbeck process.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.signal import lfilter
from scipy.spatial.transform import Rotation

from loci.bench.labels import camera_poses, exact_motion
from loci.labels.motion import moved
from loci.labels.tristate import label_motion

LONGEST_LAG = 4.0
LAGS = 16


@dataclass(frozen=True)
class Spectrum:
    """Standard deviations of one axis, as shares of what a moving step does in a fifth of a second.

    Attributes:
        white: of what is new in every pose, at 15 poses a second.
        slow: of the slow part.
        seconds: in which the slow part is forgotten.
    """

    white: float
    slow: float
    seconds: float


class PoseNoise(NamedTuple):
    """Noise of positions, and of rotations."""

    move: Spectrum
    view: Spectrum


FREIBURG = PoseNoise(Spectrum(0.0, 0.110, 0.47), Spectrum(0.040, 0.157, 0.48))
"""TUM RGB-D freiburg1_xyz: the estimate of RGB-D SLAM against the tracked truth, at 15 poses a
second (`fit_noise`). The median moving step is 71 mm and 2.4 degrees in a fifth of a second, the
residual 8 mm and 0.4 degrees, mean over the axes."""


def fit_noise(
    true: Float[np.ndarray, "n 4 4"], estimate: Float[np.ndarray, "n 4 4"], fps: float
) -> PoseNoise:
    """The noise of an estimated trajectory.

    Args:
        true: camera-to-world poses.
        estimate: of the same times, in axes and a scale of its own: it is fitted to the truth by a
            similarity, and by one rotation of the camera.
        fps: poses per second.
    """
    error = np.linalg.inv(true) @ similar(true, estimate)
    turns = Rotation.from_matrix(error[:, :3, :3])
    turns = (turns.mean().inv() * turns).as_rotvec(degrees=True)
    labels = label_motion(exact_motion(true, fps))
    span = exact_motion(true, fps).span
    return PoseNoise(
        _fit(error[:, :3, 3] / (labels.stride * span), fps),
        _fit(turns / (labels.turn * span), fps),
    )


def similar(
    true: Float[np.ndarray, "n 4 4"], estimate: Float[np.ndarray, "n 4 4"]
) -> Float[np.ndarray, "n 4 4"]:
    """The estimate, moved rigidly and scaled so that its positions fit the true ones best."""
    p, q = true[:, :3, 3], estimate[:, :3, 3]
    to, out_of = p - p.mean(axis=0), q - q.mean(axis=0)
    left, size, right = np.linalg.svd(to.T @ out_of)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    scale = float((size * signs).sum() / (out_of**2).sum())
    by = np.eye(4)
    by[:3, :3] = left * signs @ right
    by[:3, 3] = p.mean(axis=0) - scale * by[:3, :3] @ q.mean(axis=0)
    return moved(estimate, by, scale)


def _fit(residuals: Float[np.ndarray, "n 3"], fps: float) -> Spectrum:
    """Least squares on the logarithm of the mean squared differences, pooled over the axes."""
    most = min(LONGEST_LAG * fps, len(residuals) / 3)
    lags = np.unique(np.geomspace(1, most, LAGS).round().astype(int))
    squares = np.array([((residuals[k:] - residuals[:-k]) ** 2).mean() for k in lags])

    def surplus(logs: np.ndarray) -> np.ndarray:
        white, slow, seconds = np.exp(logs)
        fitted = white**2 + slow**2 * (1 - np.exp(-lags / fps / seconds))
        return np.log(2 * fitted) - np.log(squares)

    deviation = max(float(residuals.std()), 1e-12)
    start = np.log([deviation / 3, deviation, 1.0])
    white, slow, seconds = np.exp(least_squares(surplus, start).x)
    return Spectrum(float(white), float(slow), float(seconds))


class Unit(NamedTuple):
    """What a moving step does in a fifth of a second: in units of the poses, and in degrees."""

    stride: float
    turn: float


def noisy_cameras(
    poses: Float[np.ndarray, "n 3"],
    noise: PoseNoise,
    unit: Unit,
    factor: float,
    rng: np.random.Generator,
    fps: float,
) -> Float[np.ndarray, "n 4 4"]:
    """Camera poses as an odometry might give them.

    Args:
        poses: true x, y, and heading in degrees.
        noise: its spectrum.
        unit: that shares of the noise are of.
        factor: of the noise.
        rng: of the noise.
        fps: poses per second.
    """
    cameras = camera_poses(poses)
    cameras[:, :3, 3] += factor * unit.stride * _series(noise.move, len(poses), rng, fps)
    turns = factor * unit.turn * _series(noise.view, len(poses), rng, fps)
    cameras[:, :3, :3] @= Rotation.from_rotvec(turns, degrees=True).as_matrix()
    return cameras


def _series(
    spectrum: Spectrum, count: int, rng: np.random.Generator, fps: float
) -> Float[np.ndarray, "count 3"]:
    keep = np.exp(-1 / (spectrum.seconds * fps))
    drive = rng.standard_normal((count, 3)) * np.sqrt(1 - keep**2)
    drive[0] = rng.standard_normal(3)  # in equilibrium from the first on
    slow = np.asarray(lfilter([1.0], [1.0, -keep], drive, axis=0))
    return spectrum.slow * slow + spectrum.white * rng.standard_normal((count, 3))
