"""The camera's path through a film, from the film alone: pairs of frames, chained.

A single camera cannot tell how far it moves. The lengths of moves are chained by points whose depth
is known. Where a turn has replaced all of them, the walker's speed goes on: every stretch between
such breaks has the same median length of a moving step. Lenses that bend lines make the scale
drift: by a factor of four in ten seconds of an action camera's film (docs/labels.md). So the
running median of a moving step is held constant as well: over some seconds, people walk at a steady
pace. A cut ends a run.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import median_filter

from loci.labels.motion import Motion, between, span_steps, spans
from loci.labels.tracks import Tracker
from loci.labels.two_view import ROTATION_FLOOR, TwoView, depths, two_view

MIN_SHARED = 8
MIN_PARALLAX = 0.8
"""Pixels that a point is displaced by the move, for its depth to count."""
NEW_PARALLAX = 1.5
"""The same for a depth to become known at all: where noise alone would lift points above a limit,
those are left that look too near, and the scale would shrink."""
MIN_STEADY = 5
FASTEST = 4.0
"""Steps of more strides than this are mistakes of the scale, and not known."""
STEADY = 91
"""Moving steps over which the walker's speed is steady: six seconds."""
MAX_CARRIED = 4
"""Steps in a row that are not found and taken to be as the one before, since a hand and a walker
have inertia. They are not known: this only keeps poses from straying."""
SCALE_SIGMA = 0.03
"""Relative deviation of the length of a move, at least."""


@dataclass(frozen=True)
class CameraPath:
    """The camera along a film.

    Attributes:
        poses: camera to world, where every run begins at the identity.
        runs: first frame of each run; runs are separated by cuts.
        known: of every step from frame i to i + 1, whether it was found.
        rotation_sigma: standard deviation of the turn of each step, in degrees.
        move_sigma: of its move, in units of the poses.
        kinds: how each step was found.
        lost: steps that were not found, cuts not counted.
        breaks: steps at which no point carried the scale on.
    """

    poses: Float[np.ndarray, "n 4 4"]
    runs: tuple[int, ...]
    known: Bool[np.ndarray, "n-1"]
    rotation_sigma: Float[np.ndarray, "n-1"]
    move_sigma: Float[np.ndarray, "n-1"]
    kinds: tuple[str, ...] = ()
    lost: int = 0
    breaks: tuple[int, ...] = ()

    def parts(self) -> list[tuple[int, int]]:
        """First frame of each run, and the one after its last."""
        ends = [*self.runs[1:], len(self.poses)]
        return list(zip(self.runs, ends, strict=True))


@dataclass
class _Scale:
    """Depths of points in the newest frame, by their identity."""

    depth: dict[int, float] = field(default_factory=dict)
    typical: float | None = None
    least_new: float = 0.0
    weights: dict[int, float] = field(default_factory=dict)

    def length(self, ids: np.ndarray, first: np.ndarray, good: np.ndarray) -> tuple[float, bool]:
        """The length of a move whose points have these depths if it were 1; and whether the scale
        is carried on by points."""
        if not good.any():
            return 1.0, False
        shared = [i for i in np.flatnonzero(good) if int(ids[i]) in self.depth]
        if len(shared) >= MIN_SHARED:
            ratios = np.array([self.depth[int(ids[i])] / first[i] for i in shared])
            weights = np.array([self.weights[int(ids[i])] for i in shared])
            order = np.argsort(ratios)
            total = np.cumsum(weights[order])
            return float(ratios[order][np.searchsorted(total, total[-1] / 2)]), True
        if self.typical is None:
            return 1.0, True
        return float(self.typical / np.median(first[good])), False

    def advance(
        self, ids: np.ndarray, second: np.ndarray, angle: np.ndarray, good: np.ndarray
    ) -> None:
        """Depths after a move of known length; those known before are averaged with the new."""
        depth, weights = {}, {}
        enough = angle > self.least_new
        for i in np.flatnonzero(good):
            if int(ids[i]) not in self.depth and not enough[i]:
                continue
            identity, weight = int(ids[i]), float(angle[i] ** 2)
            value = second[i]
            if identity in self.depth:
                older = min(self.weights[identity], 20 * weight)
                moved = self._carried[identity]
                if moved > 0:
                    value = np.exp(
                        (weight * np.log(value) + older * np.log(moved)) / (weight + older)
                    )
                    weight += older
            depth[identity], weights[identity] = float(value), weight
        self.depth, self.weights = depth, weights
        if depth:
            self.typical = float(np.median(list(depth.values())))

    def carry(
        self, ids: np.ndarray, rays: np.ndarray, rotation: np.ndarray, move: np.ndarray
    ) -> None:
        """Where known points are in the axes of the next camera."""
        points = {
            int(i): self.depth[int(i)] * ray
            for i, ray in zip(ids, rays, strict=True)
            if int(i) in self.depth
        }
        self._carried = {i: float(((point - move) @ rotation)[2]) for i, point in points.items()}

    def turn(self) -> None:
        """After a rotation, or none, points keep their depths as carried."""
        self.depth = {i: z for i, z in self._carried.items() if z > 0}
        self.weights = {i: self.weights[i] for i in self.depth}

    _carried: dict[int, float] = field(default_factory=dict)


def camera_matrix(width: int, height: int, fov: float) -> Float[np.ndarray, "3 3"]:
    """Intrinsics for a horizontal field of view in degrees."""
    focal = width / 2 / np.tan(np.radians(fov / 2))
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def odometry(frames: Iterable[UInt8[np.ndarray, "h w"]], fov: float) -> CameraPath:
    """The path through grey frames.

    Args:
        frames: of one size.
        fov: their horizontal field of view in degrees.
    """
    tracker, scale = Tracker(), _Scale()
    runs, breaks, views = [0], [], []
    lengths: list[float] = []
    camera = np.eye(3)
    for number, frame in enumerate(frames):
        matches = tracker.advance(frame)
        if matches is None:
            camera = camera_matrix(frame.shape[1], frame.shape[0], fov)
            continue
        if matches.cut:
            runs.append(number)
            views.append(TwoView("lost"))
            lengths.append(0.0)
            scale = _Scale()
            continue
        scale.least_new = NEW_PARALLAX / camera[0, 0]
        view = two_view(matches.before, matches.after, camera, seed=number)
        inverse = np.linalg.inv(camera)
        rays = np.column_stack([matches.before, np.ones(len(matches.before))]) @ inverse.T
        length = 0.0
        if view.kind == "motion":
            first, second, angle = depths(view, matches.before, matches.after, camera)
            good = view.inliers & (first > 0) & (second > 0) & (angle > MIN_PARALLAX / camera[0, 0])
            length, chained = scale.length(matches.ids, first, good)
            if not chained:
                breaks.append(number - 1)
            scale.carry(matches.ids, rays, view.rotation, length * view.direction)
            scale.advance(matches.ids, second * length, angle, good)
        else:
            scale.carry(matches.ids, rays, view.rotation, np.zeros(3))
            scale.turn()
        views.append(view)
        lengths.append(length)
    evened = _even(np.array(lengths), sorted({*(run - 1 for run in runs[1:]), *breaks}))
    views = [
        view if length <= FASTEST else TwoView("lost", view.rotation)
        for view, length in zip(views, evened, strict=True)
    ]
    return _path(runs, breaks, views, np.where(evened <= FASTEST, evened, 0.0))


def _even(lengths: Float[np.ndarray, "n"], breaks: list[int]) -> Float[np.ndarray, "n"]:
    """Lengths with a median of 1 in every stretch between breaks, and a steady running median."""
    lengths = lengths.copy()
    for first, last in zip([0, *breaks], [*breaks, len(lengths)], strict=True):
        stretch = lengths[first:last]
        moving = stretch[stretch > 0]
        if len(moving):
            lengths[first:last] = stretch / np.median(moving)
    moving = lengths > 0
    if moving.sum() > MIN_STEADY:
        size = min(STEADY, int(moving.sum()))
        lengths[moving] /= median_filter(lengths[moving], size, mode="reflect")
    return lengths


def _path(
    runs: list[int],
    breaks: list[int],
    views: list[TwoView],
    lengths: Float[np.ndarray, "n-1"],
) -> CameraPath:
    poses, step, carried = [np.eye(4)], np.eye(4), 0
    for number, (view, length) in enumerate(zip(views, lengths, strict=True), 1):
        if number in runs:
            poses.append(np.eye(4))
            step, carried = np.eye(4), MAX_CARRIED
            continue
        if view.kind != "lost" or not np.array_equal(view.rotation, np.eye(3)):
            step, carried = np.eye(4), 0
            step[:3, :3], step[:3, 3] = view.rotation, length * view.direction
        elif carried < MAX_CARRIED:
            carried += 1
        else:
            step = np.eye(4)
        poses.append(poses[-1] @ step)
    kinds = [view.kind for view in views]
    known = np.array([kind != "lost" for kind in kinds], bool)
    moving = lengths[lengths > 0]
    typical = float(np.median(moving)) if len(moving) else 1.0
    direction = np.radians([min(view.direction_sigma, 60.0) for view in views])
    size = lengths * np.hypot(direction, SCALE_SIGMA)
    # Where no move was seen, one of less than the least parallax may have been.
    parallax = [view.parallax for view in views if view.kind == "motion"]
    unseen = typical * 0.15 / max(float(np.median(parallax)), 0.15) if parallax else 0.0
    move_sigma = np.where(lengths > 0, np.maximum(size, 0.01 * typical), unseen)
    rotation_sigma = np.array([view.rotation_sigma for view in views])
    cuts = len(runs) - 1
    return CameraPath(
        np.stack(poses),
        tuple(runs),
        known,
        rotation_sigma,
        move_sigma,
        tuple(kinds),
        int((~known).sum()) - cuts,
        tuple(breaks),
    )


def path_motion(path: CameraPath, fps: float) -> Motion:
    """Motion along a path over a fifth of a second, never across a cut."""
    span, steps = span_steps(fps), len(path.poses) - 1
    move, view = np.zeros((steps, 2)), np.zeros((steps, 2))
    move_sigma, view_sigma = np.zeros(steps), np.zeros(steps)
    known = np.zeros(steps, bool)
    for begin, end in path.parts():
        count = end - begin - 1
        if count < 1:
            continue
        first, last = spans(count, span)
        here = slice(begin, begin + count)
        move[here], view[here] = between(path.poses[begin:end], first, last)
        within = begin + first[:, None] + np.arange(min(span, count))
        known[here] = path.known[within].all(axis=1)
        move_sigma[here] = np.sqrt((path.move_sigma[within] ** 2).sum(axis=1))
        view_sigma[here] = np.sqrt((path.rotation_sigma[within] ** 2).sum(axis=1))
    view_sigma = np.maximum(view_sigma, ROTATION_FLOOR)
    return Motion(move, view, move_sigma, view_sigma, known, span, fps)
