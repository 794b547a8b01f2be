"""The motion seen in frames has the sign of the action that made it."""

import numpy as np
import pytest

from loci.bench.control import SCRIPT, moved, obeyed
from loci.bench.motion import growth, shift_right
from loci.data.doom import film


def smooth(seed: int) -> np.ndarray:
    """A picture without fine detail, 96 pixels a side."""
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 12, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def test_shifts_are_measured_in_pixels() -> None:
    picture = smooth(0)
    views = np.stack([picture[16:80, 16 - s : 80 - s] for s in (0, 3, -5, 16)])
    assert shift_right(views[[0, 0, 0, 0]], views).tolist() == [0, 3, -5, 16]


def test_growing_and_shrinking_have_opposite_signs() -> None:
    wide = smooth(1)
    near = np.kron(wide[24:72, 24:72], np.ones((2, 2, 1))).astype(np.uint8)
    small, large = wide[None], near[None]
    between = smooth(1)[4:92, 4:92]
    index = np.arange(96) * 88 // 96
    zoomed = between[index][:, index][None]
    assert growth(small, zoomed)[0] > 0
    assert growth(zoomed, small)[0] < 0
    assert growth(small, small)[0] == 0
    assert growth(small, large).shape == (1,)


def test_poses_tell_what_was_held_up() -> None:
    poses = np.array([[0, 0, 359], [0, 0, 6.5], [0, 0, 6.5], [0, 12, 6.5], [0.2, 12, 6.5]])
    assert moved(poses).tolist() == [True, False, True, False]


def test_the_measurement_is_right_about_the_engine() -> None:
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed (the extra `doom`)")
    frames, poses = film(2_000_000_001, SCRIPT)
    right = obeyed(frames, SCRIPT, moved(poses))
    assert len(right) == 6
    assert np.concatenate(list(right.values())).mean() > 0.97
    backwards = obeyed(frames[::-1], SCRIPT[::-1], moved(poses)[::-1])
    assert np.concatenate(list(backwards.values())).mean() < 0.03
