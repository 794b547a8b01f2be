"""Points followed from frame to frame: KLT with a forward-backward check."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

CORNERS, SPACING, QUALITY = 900, 6, 0.003
WINDOW, LEVELS = 15, 4
ROUND_TRIP = 0.5
"""Pixels by which a point followed forward and back again may miss its beginning."""
CUT_KEPT = 0.2
"""Fewer points than this share survive a cut."""
CUT_DIFFERENCE = 12.0
"""Mean difference of grey levels, after matching brightness, that a cut has at least."""


class Matches(NamedTuple):
    """Points in two frames, in pixels, and the identity of each."""

    before: Float[np.ndarray, "n 2"]
    after: Float[np.ndarray, "n 2"]
    ids: Int[np.ndarray, "n"]
    cut: bool = False


@dataclass
class Tracker:
    """Follows corners through frames, and looks for new ones where they thin out."""

    _frame: UInt8[np.ndarray, "h w"] | None = None
    _points: Float[np.ndarray, "n 2"] | None = None
    _ids: Int[np.ndarray, "n"] | None = None
    _next_id: int = 0

    def advance(self, frame: UInt8[np.ndarray, "h w"]) -> Matches | None:
        """Points of the frame before found in this one; None for the first frame."""
        before, self._frame = self._frame, frame
        if before is None or self._points is None or self._ids is None:
            self._points, self._ids = np.zeros((0, 2)), np.zeros(0, np.int64)
            self._refill(frame)
            return None
        points, ids = self._points, self._ids
        after, found = follow(before, frame, points)
        cut = len(points) >= 30 and found.mean() < CUT_KEPT and _differ(before, frame)
        apart = uncrowded(after[found])
        self._points, self._ids = after[found][apart], ids[found][apart]
        self._refill(frame)
        return Matches(points[found], after[found], ids[found], cut)

    def _refill(self, frame: UInt8[np.ndarray, "h w"]) -> None:
        assert self._points is not None
        assert self._ids is not None
        height, width = frame.shape
        mask = np.full(frame.shape, 255, np.uint8)
        for x, y in self._points:
            cv2.circle(mask, (round(x), round(y)), SPACING, 0, -1)
        wanted = CORNERS - len(self._points)
        if wanted < CORNERS // 10:
            return
        found = cv2.goodFeaturesToTrack(frame, wanted, QUALITY, SPACING, mask=mask)
        if found is None:
            return
        margin = 2
        corners = cv2.cornerSubPix(
            frame, found, (3, 3), (-1, -1), (cv2.TERM_CRITERIA_MAX_ITER, 10, 0.0)
        )[:, 0].astype(np.float64)
        inside = (corners > margin).all(axis=1) & (corners < (width - margin, height - margin)).all(
            axis=1
        )
        corners = corners[inside]
        self._points = np.concatenate([self._points, corners])
        self._ids = np.concatenate([self._ids, self._next_id + np.arange(len(corners))])
        self._next_id += len(corners)


def uncrowded(points: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "k"]:
    """The first point of each square of half the spacing, in their order.

    Walking backwards, points run together in the middle, and none leave the picture: they would
    take the place of new ones at its edge, which alone show the move.
    """
    squares = np.floor(points / (SPACING / 2)).astype(np.int64)
    return np.sort(np.unique(squares, axis=0, return_index=True)[1])


def follow(
    before: UInt8[np.ndarray, "h w"],
    after: UInt8[np.ndarray, "h w"],
    points: Float[np.ndarray, "n 2"],
) -> tuple[Float[np.ndarray, "n 2"], np.ndarray]:
    """Where points went, and which of them came back to where they were when followed back."""
    if not len(points):
        return points, np.zeros(0, bool)
    settings = {"winSize": (WINDOW, WINDOW), "maxLevel": LEVELS, "criteria": (3, 30, 0.01)}
    start = points.astype(np.float32)[:, None]
    there, there_ok, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None, **settings)  # type: ignore
    back, back_ok, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **settings)  # type: ignore
    miss = np.linalg.norm((back - start)[:, 0], axis=1)
    there = there[:, 0].astype(np.float64)
    height, width = after.shape
    inside = (there > 0).all(axis=1) & (there < (width - 1, height - 1)).all(axis=1)
    found = (there_ok[:, 0] > 0) & (back_ok[:, 0] > 0) & (miss < ROUND_TRIP) & inside
    return there, found


def _differ(a: UInt8[np.ndarray, "h w"], b: UInt8[np.ndarray, "h w"]) -> bool:
    small = [
        cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA).astype(np.float64)
        for frame in (a, b)
    ]
    difference = (small[0] - small[0].mean()) - (small[1] - small[1].mean())
    return float(np.abs(difference).mean()) > CUT_DIFFERENCE
