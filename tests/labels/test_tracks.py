"""Tracks of points: they stay spread over the picture."""

import cv2
import numpy as np

from loci.labels.tracks import SPACING, Tracker, uncrowded


def squares(points: np.ndarray, side: int = 24) -> int:
    """How many squares of a picture have a point."""
    return len(np.unique((points // side).astype(int), axis=0))


def test_points_stay_spread_while_one_walks_backwards() -> None:
    rng = np.random.default_rng(0)
    world = cv2.resize(rng.integers(0, 255, (300, 300), np.uint8), (1800, 1800))
    tracker, spread = Tracker(), []
    for number in range(50):
        side = round(300 * 1.03**number)
        seen = world[900 - side // 2 : 900 + side // 2, 900 - side // 2 : 900 + side // 2]
        matches = tracker.advance(cv2.resize(seen, (288, 288), interpolation=cv2.INTER_AREA))
        if matches is not None:
            spread.append(squares(matches.before))
    assert min(spread[40:]) > 0.75 * spread[0], spread


def test_the_older_of_two_points_is_kept() -> None:
    points = np.array([[10.0, 10.0], [40.0, 40.0], [10.5, 10.5], [10.0 + SPACING, 10.0]])
    assert uncrowded(points).tolist() == [0, 1, 3]
    assert uncrowded(points[[2, 0]]).tolist() == [0]
