from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loci.actions import MOVES, UNCERTAIN, VIEWS
from loci.labels.motion import (
    SHARE_OF_WAY,
    WHITE_TO_MOTION,
    Motion,
    mirrored,
    motion_sigmas,
    moved,
    planar,
    planar_increments,
    pose_noise,
    trajectory_motion,
)
from loci.labels.tristate import label_channel, label_motion, true_ids

SWAPPED = np.array([0, 1, 2, 4, 3, 6, 5, 8, 7, 9])


def shaky(seed: int = 0, noise: float = 0.004) -> np.ndarray:
    """A walk that goes, strafes, turns and stops, with noise."""
    rng = np.random.default_rng(seed)
    poses = [np.eye(4)]
    for _ in range(25):
        step = np.eye(4)
        step[:3, 3] = rng.choice([-1, 0, 0, 1]) * 0.1, 0, rng.choice([0, 1, 1]) * 0.1
        step[:3, :3] = Rotation.from_euler("y", rng.choice([-3, 0, 0, 3]), degrees=True).as_matrix()
        poses += [poses[-1] @ np.linalg.matrix_power(step, k) for k in range(1, 13)]
    result = np.stack(poses)
    jitter = np.tile(np.eye(4), (len(result), 1, 1))
    jitter[:, :3, 3] = noise * rng.normal(size=(len(result), 3))
    turns = Rotation.from_rotvec(20 * noise * rng.normal(size=(len(result), 3)), degrees=True)
    jitter[:, :3, :3] = turns.as_matrix()
    return result @ jitter


@pytest.mark.parametrize(
    ("motion", "move", "view"),
    [
        ((1, 0), "go forward", "turn up"),
        ((-1, 0), "go back", "turn down"),
        ((0, -1), "go left", "turn left"),
        ((0, 1), "go right", "turn right"),
        ((1, -1), "go forward and go left", "turn up and turn left"),
        ((1, 1), "go forward and go right", "turn up and turn right"),
        ((-1, -1), "go back and go left", "turn down and turn left"),
        ((-1, 1), "go back and go right", "turn down and turn right"),
    ],
)
def test_eight_directions_have_the_published_names(
    motion: tuple[int, int], move: str, view: str
) -> None:
    (found,) = true_ids(np.array([motion], float), 0.5)
    assert (MOVES[found], VIEWS[found]) == (move, view)


def test_three_states_and_the_border_between_sectors() -> None:
    border = np.pi / 8
    motion = np.array(
        [
            (0.1, 0),
            (0.45, 0),
            (0.55, 0),
            (0.8, 0),
            (2 * np.cos(border - 0.05), 2 * np.sin(border - 0.05)),
            (2 * np.cos(border - 0.2), 2 * np.sin(border - 0.2)),
        ]
    )
    ids, thresholds = label_channel(motion, 0.5, np.full(6, 0.1), 2.0)
    assert ids.tolist() == [0, UNCERTAIN, UNCERTAIN, 1, UNCERTAIN, 1]
    assert (thresholds.low, thresholds.high) == pytest.approx((0.3, 0.7))


def test_labels_of_a_trajectory_moved_scaled_or_mirrored() -> None:
    poses = shaky()
    before = label_motion(trajectory_motion(poses, 15)).ids
    assert {0, 1, 3, 4, UNCERTAIN} <= set(before[:, 0].tolist())
    assert {0, 3, 4} <= set(before[:, 1].tolist())
    by = np.eye(4)
    by[:3, :3], by[:3, 3] = Rotation.from_rotvec([1, 2, 0.5]).as_matrix(), (4, 5, -6)
    assert (label_motion(trajectory_motion(moved(poses, by, 0.01), 15)).ids == before).all()
    after = label_motion(trajectory_motion(mirrored(poses), 15)).ids
    assert (after == SWAPPED[before]).all()


def test_more_noise_makes_more_uncertain_not_more_wrong() -> None:
    true = trajectory_motion(shaky(noise=0), 15)
    kept = []
    for noise in (0.002, 0.012):
        found = label_motion(trajectory_motion(shaky(noise=noise), 15))
        expected = true_ids(true.move, found.move.middle)
        certain = found.ids[:, 0] != UNCERTAIN
        kept.append(certain.mean())
        assert (found.ids[:, 0] != expected)[certain].mean() < 0.02
    assert kept[0] > kept[1] + 0.1


def test_noise_is_estimated_from_the_trajectory_alone() -> None:
    ahead = np.tile(np.eye(4), (400, 1, 1))
    ahead[:, 2, 3] = 0.1 * np.arange(400)
    assert pose_noise(ahead, 15) == pytest.approx((0, 0), abs=1e-9)
    rng = np.random.default_rng(1)
    ahead[:, :3, 3] += 0.01 * rng.normal(size=(400, 3))
    position, rotation = pose_noise(ahead, 15)
    assert position == pytest.approx(0.01, rel=0.15)
    assert rotation < 1e-6


def test_long_moves_are_less_exact() -> None:
    """Errors of scale and of direction are shares of the way, which no local fit sees."""
    moves = np.array([[0.0, 0], [3, 0], [0, -4], [3, 4]])
    sigmas, turns = motion_sigmas(moves, 0.0, 0.5)
    assert sigmas == pytest.approx(SHARE_OF_WAY * np.array([0, 3, 4, 5]))
    assert turns == pytest.approx(WHITE_TO_MOTION["view"] * 0.5)
    (short, long), _ = motion_sigmas(moves[[0, 3]], 0.01, 0.0)
    assert short == pytest.approx(WHITE_TO_MOTION["move"] * 0.01)
    assert long == pytest.approx(np.hypot(short, SHARE_OF_WAY * 5))


def test_unknown_motion_is_uncertain_and_none_is_no_op() -> None:
    motion = trajectory_motion(shaky(noise=0.001), 15)
    known = motion.known.copy()
    known[10:20] = False
    ids = label_motion(replace(motion, known=known)).ids
    assert (ids[10:20] == UNCERTAIN).all()
    assert (ids[30:] != UNCERTAIN).any()
    steps, zero = np.ones(40, bool), np.zeros((40, 2))
    still = Motion(zero, zero, np.zeros(40), np.full(40, 0.02), steps, 3, 15)
    assert not label_motion(still).ids.any()


def test_planar_poses_and_increments_reckon_each_other() -> None:
    poses = shaky(noise=0)
    flat = planar(moved(poses, shaky(3)[40]))
    assert flat[0] == pytest.approx([0, 0, 0], abs=1e-9)
    forward, left, turn = planar_increments(flat).T
    heading = np.cumsum(turn)
    angle = np.radians(heading)
    x = np.cumsum(forward * np.cos(angle) - left * np.sin(angle))
    y = np.cumsum(forward * np.sin(angle) + left * np.cos(angle))
    assert np.column_stack([x, y, heading]) == pytest.approx(flat[1:], abs=1e-9)
    right = np.stack([np.eye(4)] * 2)
    right[1, :3, :3] = Rotation.from_euler("y", 10, degrees=True).as_matrix()
    right[1, 0, 3] = 1.0
    assert planar(right)[1] == pytest.approx([0, -1, -10])
