"""Action accuracy: the measurement itself, on the engine."""

import numpy as np
import pytest

from loci.bench.world.control import SCRIPT, correct_motion, moved
from loci.envs.doom.engine import film


def test_blocked_actions_are_not_counted() -> None:
    poses = np.array([[0, 0, 359], [0, 0, 6.5], [0, 0, 6.5], [0, 12, 6.5], [0.2, 12, 6.5]])
    assert moved(poses).tolist() == [True, False, True, False]


def test_the_measurement_is_right_about_the_engine() -> None:
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed (the extra `doom`)")
    frames, poses = film(2_000_000_001, SCRIPT)
    correct = correct_motion(frames, SCRIPT, moved(poses))
    assert len(correct) == 6
    assert np.concatenate(list(correct.values())).mean() > 0.97
    backwards = correct_motion(frames[::-1], SCRIPT[::-1], moved(poses)[::-1])
    assert np.concatenate(list(backwards.values())).mean() < 0.03
