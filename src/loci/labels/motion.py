"""Camera motion over a fifth of a second, in the camera's own axes, and how noisy it is.

Poses are camera-to-world matrices `[n, 4, 4]`; the camera looks along z, x is right and y is down.
Everything here is the same for a trajectory that is moved rigidly, and scales with it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.signal import savgol_coeffs
from scipy.spatial.transform import Rotation

SPAN_SECONDS = 0.2
FIT_SECONDS, FIT_ORDER = 0.15, 2
WHITE_TO_MOTION = {"move": 3.0, "view": 2.6}
"""Deviation of a motion over `SPAN_SECONDS` per deviation of what a local fit leaves of a pose.

White noise would give the square root of 2. Estimates of a trajectory err in slow waves as well,
which no fit sees; measured on freiburg1_xyz (docs/labels.md)."""
SHARE_OF_WAY = 0.02
"""Deviation of a move, as a share of its length, that a trajectory's slow errors of scale and of
direction add; measured on the first half of KITTI 00 (docs/labels.md)."""


@dataclass(frozen=True)
class Motion:
    """What the camera does in each step, from frame i to i + 1, measured over a span around it.

    Attributes:
        move: forward and right, in units of the poses.
        view: up and right, in degrees.
        move_sigma: standard deviation of either component of `move`.
        view_sigma: the same of `view`.
        known: whether the motion is known at all.
        span: steps over which it is measured.
        fps: steps per second.
    """

    move: Float[np.ndarray, "n 2"]
    view: Float[np.ndarray, "n 2"]
    move_sigma: Float[np.ndarray, "n"]
    view_sigma: Float[np.ndarray, "n"]
    known: Bool[np.ndarray, "n"]
    span: int
    fps: float


def span_steps(fps: float) -> int:
    """How many steps come closest to a fifth of a second; at least 1."""
    return max(1, round(SPAN_SECONDS * fps))


def between(
    poses: Float[np.ndarray, "n 4 4"], first: np.ndarray, last: np.ndarray
) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "m 2"]]:
    """`move` and `view` from poses `first` to poses `last`, in the axes halfway between them, so
    that a film played backwards has the opposite motion."""
    relative = np.linalg.inv(poses[first]) @ poses[last]
    turn = Rotation.from_matrix(relative[:, :3, :3])
    halfway = Rotation.from_rotvec(-turn.as_rotvec() / 2)
    shift = halfway.apply(relative[:, :3, 3])
    degrees = turn.as_rotvec(degrees=True)
    # Turning about x (right) tilts up, about y (down) turns right.
    return shift[:, [2, 0]], degrees[:, [0, 1]]


def spans(count: int, span: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last pose of the span around each of `count` steps; at the ends it is shifted."""
    span = min(span, count)
    first = np.clip(np.arange(count) - (span - 1) // 2, 0, count - span)
    return first, first + span


def pose_noise(poses: Float[np.ndarray, "n 4 4"], fps: float) -> tuple[float, float]:
    """Standard deviations of a trajectory's noise, from the trajectory alone.

    A parabola through a third of a second cannot follow noise; what it leaves, robustly averaged,
    is the noise of a single pose.

    Returns:
        of a coordinate of the position, in units of the poses, and of a rotation, in degrees.
    """
    half = max(2, round(FIT_SECONDS * fps))
    if len(poses) < 2 * half + 1:
        return 0.0, 0.0
    weights = savgol_coeffs(2 * half + 1, FIT_ORDER, use="dot")
    scale = 1 / np.sqrt(1 - weights[half])
    middles = np.arange(half, len(poses) - half)
    around = middles[:, None] + np.arange(-half, half + 1)
    local = np.linalg.inv(poses[middles])[:, None] @ poses[around]
    turns = Rotation.from_matrix(local[..., :3, :3].reshape(-1, 3, 3)).as_rotvec(degrees=True)
    left = (
        np.einsum("k,nkc->nc", weights, local[..., :3, 3]),
        np.einsum("k,nkc->nc", weights, turns.reshape(*around.shape, 3)),
    )
    # Per axis, since noise and shake differ between them; the axes that labels use.
    position = _deviation(left[0][:, [2, 0]]) * scale
    rotation = _deviation(left[1][:, [0, 1]]) * scale
    return float(position), float(rotation)


def _deviation(residuals: Float[np.ndarray, "n 2"]) -> float:
    """The larger of both axes, robust against single outliers."""
    low = 1.4826 * np.median(np.abs(residuals), axis=0)
    trimmed = np.sqrt(np.mean(np.minimum(residuals**2, (4 * low) ** 2 + 1e-300), axis=0))
    return float(np.maximum(low, trimmed).max())


def trajectory_motion(poses: Float[np.ndarray, "n 4 4"], fps: float) -> Motion:
    """Motion along poses of unknown accuracy; its noise is estimated from them."""
    span = span_steps(fps)
    move, view = between(poses, *spans(len(poses) - 1, span))
    known = np.ones(len(move), bool)
    return Motion(move, view, *motion_sigmas(move, *pose_noise(poses, fps)), known, span, fps)


def motion_sigmas(
    move: Float[np.ndarray, "n 2"], position: float, rotation: float
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Standard deviations of moves and views along a trajectory with the given `pose_noise`."""
    way = SHARE_OF_WAY * np.hypot(*move.T)
    moves = np.hypot(WHITE_TO_MOTION["move"] * position, way)
    return moves, np.full(len(move), WHITE_TO_MOTION["view"] * rotation)


def moved(
    poses: Float[np.ndarray, "n 4 4"], by: Float[np.ndarray, "4 4"], scale: float = 1.0
) -> Float[np.ndarray, "n 4 4"]:
    """The same trajectory scaled and moved rigidly."""
    result = poses.copy()
    result[:, :3, 3] *= scale
    return by @ result


def mirrored(poses: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 4 4"]:
    """The trajectory of the mirrored film: left and right swapped."""
    flip = np.diag([-1.0, 1, 1, 1])
    return flip @ poses @ flip


def planar(poses: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 3"]:
    """Poses as Loci's worlds have them: x, y and the heading in degrees, counter-clockwise.

    Up is the camera's mean upward axis; the first pose is at the origin and looks along x.
    """
    up = -poses[:, :3, 1].mean(axis=0)
    up /= np.linalg.norm(up)
    ahead = poses[0, :3, 2] - up * (up @ poses[0, :3, 2])
    ahead /= np.linalg.norm(ahead)
    left = np.cross(up, ahead)
    looking, place = poses[:, :3, 2], poses[:, :3, 3] - poses[0, :3, 3]
    heading = np.unwrap(np.arctan2(looking @ left, looking @ ahead))
    return np.column_stack([place @ ahead, place @ left, np.degrees(heading)])


def planar_increments(
    poses: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n-1 3"]:
    """Forward, left and the turn to the left in degrees of each step, as dead reckoning adds them:
    a turn first, then a move along the new heading."""
    angle = np.radians(poses[1:, 2])
    dx, dy = np.diff(poses[:, :2], axis=0).T
    forward, left = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return np.column_stack([forward, left, np.diff(poses[:, 2])])
