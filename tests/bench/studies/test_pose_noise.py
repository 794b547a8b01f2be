"""Noise of poses: what is put in is found again, whatever the axes and the scale."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loci.bench.labels import camera_poses
from loci.bench.studies.pose_noise import PoseNoise, Spectrum, Unit, fit_noise, noisy_cameras
from loci.labels.motion import moved

NOISE = PoseNoise(Spectrum(0.03, 0.1, 0.5), Spectrum(0.05, 0.2, 0.3))


def winding(frames: int) -> np.ndarray:
    """6 units a frame, and turns of 6 degrees a frame this way and that."""
    heading = np.cumsum(np.where(np.arange(frames) // 30 % 2, -6.0, 6.0))
    place = 6 * np.cumsum(np.column_stack([np.cos(x := np.radians(heading)), np.sin(x)]), axis=0)
    return np.column_stack([place, heading])


def test_the_spectrum_of_noise_is_found_again() -> None:
    path = winding(12_000)
    unit = Unit(18.0, 18.0)
    estimate = noisy_cameras(path, NOISE, unit, 1.0, np.random.default_rng(0), 15.0)
    by = np.eye(4)
    by[:3, :3] = Rotation.from_rotvec([0.2, -1.0, 2.0]).as_matrix()
    by[:3, 3] = 3, -8, 5
    found = fit_noise(camera_poses(path), moved(estimate, by, 0.1), 15.0)
    for expected, spectrum in zip(NOISE, found, strict=True):
        assert spectrum.white == pytest.approx(expected.white, rel=0.2)
        assert spectrum.slow == pytest.approx(expected.slow, rel=0.15)
        assert spectrum.seconds == pytest.approx(expected.seconds, rel=0.3)


def test_noise_grows_with_its_factor_and_there_is_none_without() -> None:
    path, unit = winding(90), Unit(18.0, 18.0)
    exact = camera_poses(path)
    deviations = []
    for factor in (0.0, 1.0, 2.0):
        found = noisy_cameras(path, NOISE, unit, factor, np.random.default_rng(0), 15.0)
        deviations.append((found - exact)[:, :3, 3].std())
    assert deviations[0] == 0
    assert deviations[2] == pytest.approx(2 * deviations[1])
