"""The noise that the benchmark of labels multiplies is that of the estimate, not of its axes."""

import numpy as np
import pytest

from loci.bench import labels
from loci.labels.motion import moved, trajectory_motion
from tests.labels.test_tristate import shaky


@pytest.fixture(scope="module")
def turned() -> labels.Trajectory:
    """An estimate without noise in other axes, metres away."""
    by = shaky(4)[60]
    by[:3, 3] = 3.0, -2.0, 5.0
    true = shaky(noise=0)
    return labels.Trajectory("turned", true, moved(true, by), 15.0)


def test_axes_are_no_noise(turned: labels.Trajectory) -> None:
    onto = moved(turned.estimate, labels._onto(turned.estimate, turned.true))
    assert onto == pytest.approx(turned.true, abs=1e-9)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_error_of_moves_is_multiplied(turned: labels.Trajectory, factor: float) -> None:
    rng = np.random.default_rng(0)
    noisy = turned.estimate.copy()
    noisy[:, :3, 3] += 0.01 * rng.normal(size=(len(noisy), 3))
    once = turned._replace(estimate=moved(noisy, labels._onto(noisy, turned.true)))
    true = trajectory_motion(turned.true, 15).move
    errors = [
        trajectory_motion(labels.with_noise(once, by).estimate, 15).move - true
        for by in (1.0, factor)
    ]
    assert errors[1].std() == pytest.approx(factor * errors[0].std(), rel=0.02)
    assert errors[0].std() > 0.01
