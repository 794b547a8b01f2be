import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loci.labels.motion import between
from loci.labels.odometry import CameraPath, _path, odometry, path_motion
from loci.labels.tristate import label_motion
from loci.labels.two_view import TwoView
from tests.labels.room import FOV, picture, walk

KEYS = ["w"] * 10 + ["."] * 8 + ["l"] * 10 + ["w"] * 8 + ["wj"] * 10 + ["d"] * 8 + ["i"] * 7


@pytest.fixture(scope="module")
def filmed() -> tuple[list[np.ndarray], np.ndarray]:
    poses = walk(KEYS)
    return [cv2.cvtColor(picture(pose), cv2.COLOR_RGB2GRAY) for pose in poses], poses


def test_the_path_of_a_camera(filmed: tuple[list[np.ndarray], np.ndarray]) -> None:
    frames, true = filmed
    path = odometry(frames, FOV)
    assert path.runs == (0,)
    assert path.known.all()
    kinds = np.array(path.kinds)
    assert set(kinds[11:17]) == {"still"}
    assert set(kinds[19:27]) == {"rotation"}
    assert set(kinds[:10]) == set(kinds[29:52]) == {"motion"}
    right, found = (np.linalg.inv(p[:-1]) @ p[1:] for p in (true, path.poses))
    miss = np.swapaxes(right[:, :3, :3], 1, 2) @ found[:, :3, :3]
    assert np.median(np.degrees(Rotation.from_matrix(miss).magnitude())) < 0.1
    size, length = (np.linalg.norm(p[:, :3, 3], axis=1) for p in (right, found))
    moving = size > 0.01
    cosine = (right[:, :3, 3] * found[:, :3, 3]).sum(axis=1)[moving] / (size * length)[moving]
    assert np.median(np.degrees(np.arccos(cosine.clip(-1, 1)))) < 2
    assert (length[~moving] < 1e-9).all()
    scale = length[moving] / size[moving]
    assert np.quantile(scale, 0.95) / np.quantile(scale, 0.05) < 1.3


def test_labels_of_what_was_filmed(filmed: tuple[list[np.ndarray], np.ndarray]) -> None:
    labels = label_motion(path_motion(odometry(filmed[0], FOV), 15))
    middles = {5: (1, 0), 14: (0, 0), 23: (0, 4), 32: (1, 0), 41: (1, 3), 50: (4, 0), 57: (0, 1)}
    assert {i: tuple(labels.ids[i].tolist()) for i in middles} == middles
    assert labels.turn == pytest.approx(2.4, abs=0.2)


def test_a_cut_ends_a_run(filmed: tuple[list[np.ndarray], np.ndarray]) -> None:
    frames = filmed[0]
    blocks = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
    large = cv2.resize(blocks, (360, 270), interpolation=cv2.INTER_CUBIC)
    other = [large[i : i + 240, 2 * i : 2 * i + 320] for i in range(10)]
    path = odometry([*frames[:10], *other], FOV)
    assert path.runs == (0, 10)
    assert not path.known[9]
    assert path.known[:9].all()
    motion = path_motion(path, 15)
    assert not motion.known[9]
    assert motion.known[8]
    assert motion.known[10]


def test_a_lost_step_is_unknown_wherever_it_is_in_the_span() -> None:
    poses, known = walk(["w"] * 12), np.ones(12, bool)
    known[5] = False
    motion = path_motion(CameraPath(poses, (0,), known, np.zeros(12), np.zeros(12)), 15)
    assert np.flatnonzero(~motion.known).tolist() == [4, 5, 6]


def test_steps_that_are_lost_go_on_for_a_while_as_the_one_before() -> None:
    turn = Rotation.from_rotvec([0, 3, 0], degrees=True).as_matrix()
    seen, lost = TwoView("motion", turn, np.array([0, 0, 1.0])), TwoView("lost")
    views = [lost, seen, lost, lost, seen, *[lost] * 9, lost, seen]
    lengths = np.array([1.0 if view is seen else 0.0 for view in views])
    path = _path([0, 14], [], views, lengths)
    relative = np.linalg.inv(path.poses[:-1]) @ path.poses[1:]
    turns = np.rint(np.degrees(Rotation.from_matrix(relative[:, :3, :3]).magnitude())).astype(int)
    # At the cut, after step 13, nothing is carried on.
    assert turns[:9].tolist() == [0] + [3] * 8
    assert turns[9:13].tolist() == [0] * 4
    assert turns[14:].tolist() == [0, 3]
    assert relative[2, 2, 3] == pytest.approx(1.0)
    assert path.known.tolist() == [view is seen for view in views]


def test_frames_without_anything_in_them_are_lost() -> None:
    path = odometry([np.full((120, 160), 128, np.uint8)] * 6, FOV)
    assert not path.known.any()
    assert path.lost == 5


def test_a_film_backwards_has_the_opposite_motion() -> None:
    poses = walk(KEYS)
    first = np.array([2, 38, 41, 56])  # ahead, and turning as well
    last = first + 3
    move, view = between(poses, first, last)
    back_move, back_view = between(poses, last, first)
    assert back_move == pytest.approx(-move)
    assert back_view == pytest.approx(-view)
