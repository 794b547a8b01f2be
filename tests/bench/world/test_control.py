"""Action accuracy: the measurement itself, on the engine."""

import numpy as np
import pytest

from loci.bench.world.control import MOVES, SCRIPT, SPAN, correct_motion, moved
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


def test_motion_over_several_frames_sees_what_single_frames_hide() -> None:
    """Frames that stand still three times out of four still move over four."""
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed (the extra `doom`)")
    frames, poses = film(2_000_000_001, SCRIPT)
    counted = moved(poses)
    over = correct_motion(frames, SCRIPT, counted, SPAN)
    assert np.concatenate([over[name] for name in MOVES]).mean() > 0.97
    held = frames[np.arange(len(frames)) // 4 * 4]
    single, over = (correct_motion(held, SCRIPT, counted, span) for span in (1, SPAN))
    for name in MOVES:
        assert single[name].mean() < 0.5
        assert over[name].mean() > 0.9
    backwards = correct_motion(frames[::-1], SCRIPT[::-1], counted[::-1], SPAN)
    assert np.concatenate([backwards[name] for name in MOVES]).mean() < 0.05
