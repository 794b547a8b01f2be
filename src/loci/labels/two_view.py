"""Motion between two frames from matched points: still, a rotation alone, or an essential matrix.

They are tried in this order, since an essential matrix fits anything where nothing moves. The
camera looks along z, x is right and y is down.
"""

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

Kind = Literal["still", "rotation", "motion", "lost"]
MIN_MATCHES = 12
STILL_PIXELS = 0.12
"""Median displacement below which a frame stands still."""
PARALLAX_PIXELS = 0.25
PARALLAX_PER_PIXEL = 0.014
PARALLAX_TO_NOISE = 6.0
"""What a rotation may leave, in the median, and still explain everything: a quarter of a pixel;
or, of fast motion, which is followed less exactly, a little more per pixel that points move, but
no more than some times what the essential matrix leaves."""
MAGSAC_PIXELS = 1.0
ROTATION_FLOOR = 0.02
DIRECTION_FLOOR = 1.0
INFLATION = 8.0
"""Deviations of a fit are as many times too small: tracks err together (docs/labels.md)."""
WEAK_PARALLAX = 2.0
FASTEST_TURN = 60.0


@dataclass(frozen=True)
class TwoView:
    """How the camera moved between two frames.

    Attributes:
        kind: how it was found; "lost" where it was not.
        rotation: of the second camera in the axes of the first.
        direction: unit vector of the move in the axes of the first camera; zero without one.
        rotation_sigma: standard deviation of a component of the rotation, in degrees.
        direction_sigma: of the direction, in degrees.
        parallax: median displacement in pixels that the rotation does not explain.
        noise: median distance in pixels from epipolar lines.
        inliers: which matches agree with it.
    """

    kind: Kind
    rotation: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))
    direction: Float[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))
    rotation_sigma: float = ROTATION_FLOOR
    direction_sigma: float = 180.0
    parallax: float = 0.0
    noise: float = 0.0
    inliers: Bool[np.ndarray, "n"] = field(default_factory=lambda: np.zeros(0, bool))


def two_view(
    before: Float[np.ndarray, "n 2"],
    after: Float[np.ndarray, "n 2"],
    camera: Float[np.ndarray, "3 3"],
    seed: int = 0,
) -> TwoView:
    """The motion between two frames.

    Args:
        before, after: the same points in both, in pixels.
        camera: the matrix of intrinsics.
        seed: seed of the random samples.
    """
    if len(before) < MIN_MATCHES:
        return TwoView("lost")
    shift = np.linalg.norm(after - before, axis=1)
    if np.median(shift) < STILL_PIXELS and np.quantile(shift, 0.7) < 2 * STILL_PIXELS:
        return TwoView("still", inliers=shift < 4 * STILL_PIXELS)
    rays = [_rays(points, camera) for points in (before, after)]
    focal = float(camera[0, 0])
    rotation, left, sigma = fit_rotation(rays[0], rays[1], focal)
    parallax, moved = float(np.median(left)), float(np.median(shift))
    only = TwoView(
        "rotation",
        rotation.T,
        rotation_sigma=max(ROTATION_FLOOR, sigma * INFLATION),
        parallax=parallax,
        inliers=left < 4 * max(parallax, PARALLAX_PIXELS),
    )
    if parallax < PARALLAX_PIXELS:
        return only
    view = _essential(before, after, camera, rays, seed)
    allowed = PARALLAX_PIXELS + PARALLAX_PER_PIXEL * moved
    if view.kind == "motion":
        allowed = min(allowed, PARALLAX_TO_NOISE * view.noise)
    return only if parallax < allowed else view


def _rays(points: Float[np.ndarray, "n 2"], camera: np.ndarray) -> Float[np.ndarray, "n 3"]:
    return np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(camera).T


def _skew(v: np.ndarray) -> Float[np.ndarray, "3 3"]:
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


def fit_rotation(
    x: Float[np.ndarray, "n 3"],
    y: Float[np.ndarray, "n 3"],
    focal: float,
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "n"], float]:
    """The rotation that takes rays x to rays y best, robustly; what it leaves, in pixels; and the
    standard deviation of its components in degrees."""
    units = [rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (x, y)]
    # Begin with the median shift: least squares would follow the outliers.
    middle = np.median(y[:, :2] - x[:, :2], axis=0)
    rotation = Rotation.from_rotvec([-middle[1], middle[0], 0.0]).as_matrix()
    for _ in range(12):
        left = _left_over(rotation, units[0], y, focal)
        scale = max(1.2 * np.median(left), 0.05)
        weight = 1 / (1 + (left / (2 * scale)) ** 2) ** 2
        u, _, vt = np.linalg.svd((units[1] * weight[:, None]).T @ units[0])
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    left = _left_over(rotation, units[0], y, focal)
    spread = max(np.median(left) / 1.18, 0.02)
    # A rotation about x or y moves every point by about a focal length times the angle.
    sigma = np.degrees(spread / focal / np.sqrt(max(1, len(x))))
    return rotation, left, float(sigma)


def _left_over(rotation: np.ndarray, units: np.ndarray, y: np.ndarray, focal: float) -> np.ndarray:
    turned = units @ rotation.T
    turned = turned[:, :2] / np.maximum(turned[:, 2:], 1e-6)
    return np.linalg.norm(turned - y[:, :2], axis=1) * focal


def _essential(
    before: np.ndarray,
    after: np.ndarray,
    camera: np.ndarray,
    rays: list[np.ndarray],
    seed: int,
) -> TwoView:
    cv2.setRNGSeed(seed)
    try:
        matrix, mask = cv2.findEssentialMat(
            before, after, camera, cv2.USAC_MAGSAC, 0.9999, MAGSAC_PIXELS, 3000
        )
    except cv2.error:
        return TwoView("lost")
    if matrix is None or matrix.shape != (3, 3):
        return TwoView("lost")
    inliers = mask[:, 0] > 0
    if inliers.sum() < MIN_MATCHES:
        return TwoView("lost")
    _, rotation, shift, _ = cv2.recoverPose(matrix, before[inliers], after[inliers], camera)
    focal = float(camera[0, 0])
    x, y = (part[inliers] for part in rays)
    turn, shift, covariance = _refine(Rotation.from_matrix(rotation), shift[:, 0], x, y, focal)
    rotation = turn.as_matrix()
    if np.degrees(turn.magnitude()) > FASTEST_TURN:
        return TwoView("lost")
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    parallax = float(np.median(_left_over(rotation, units, y, focal)))
    noise = float(np.median(np.abs(_sampson(turn, shift, x, y)))) * focal
    deviations = np.degrees(np.sqrt(np.diag(covariance))) * INFLATION
    # A small turn and a small move aside look alike: little parallax tells little.
    weak = float(np.degrees(WEAK_PARALLAX * noise / max(parallax, 1e-6)))
    return TwoView(
        "motion",
        rotation.T,
        -rotation.T @ shift,
        max(ROTATION_FLOOR, float(deviations[:2].max())),
        max(DIRECTION_FLOOR, float(deviations[3:].max()), weak),
        parallax,
        noise,
        inliers,
    )


def _refine(
    turn: Rotation, shift: np.ndarray, x: np.ndarray, y: np.ndarray, focal: float
) -> tuple[Rotation, np.ndarray, Float[np.ndarray, "5 5"]]:
    """Gauss-Newton on Sampson distances with Cauchy weights: a rotation and a direction."""
    shift = shift / np.linalg.norm(shift)
    step = 1e-6
    covariance = np.eye(5)
    for _ in range(10):
        across = np.linalg.svd(shift[None])[2][1:]
        here = _sampson(turn, shift, x, y) * focal
        jacobian = np.empty((len(x), 5))
        for i, axis in enumerate(np.eye(3)):
            other = _sampson(Rotation.from_rotvec(step * axis) * turn, shift, x, y) * focal
            jacobian[:, i] = (other - here) / step
        for i, axis in enumerate(across):
            near = shift + step * axis
            other = _sampson(turn, near / np.linalg.norm(near), x, y) * focal
            jacobian[:, 3 + i] = (other - here) / step
        scale = max(1.4826 * np.median(np.abs(here)), 0.02)
        weight = 1 / (1 + (here / (2.5 * scale)) ** 2)
        normal = jacobian.T @ (jacobian * weight[:, None])
        normal += 1e-9 * np.trace(normal) * np.eye(5)
        change = -np.linalg.solve(normal, jacobian.T @ (weight * here))
        change *= min(1.0, 0.2 / max(np.abs(change).max(), 1e-12))
        turn = Rotation.from_rotvec(change[:3]) * turn
        shift = shift + change[3:] @ across
        shift = shift / np.linalg.norm(shift)
        covariance = scale**2 * np.linalg.inv(normal)
        if np.abs(change).max() < 1e-6:
            break
    return turn, shift, covariance


def _sampson(turn: Rotation, shift: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed Sampson distances for x in the first and y in the second camera, y = R x + t."""
    matrix = _skew(shift) @ turn.as_matrix()
    lines, back = x @ matrix.T, y @ matrix
    size = np.sqrt((lines[:, :2] ** 2).sum(axis=1) + (back[:, :2] ** 2).sum(axis=1) + 1e-18)
    return np.einsum("ni,ni->n", y, lines) / size


def depths(
    view: TwoView,
    before: Float[np.ndarray, "n 2"],
    after: Float[np.ndarray, "n 2"],
    camera: Float[np.ndarray, "3 3"],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Depths of the points in both cameras for a move of length 1, and how far apart, in radians,
    the rays to each point are. Depths behind a camera are not positive.
    """
    x, y = (_rays(points, camera) for points in (before, after))
    y_here = y @ view.rotation.T
    # z1 x = z2 R y + t, in least squares.
    xx, yy = (x * x).sum(axis=1), (y_here * y_here).sum(axis=1)
    xy = (x * y_here).sum(axis=1)
    xt, yt = x @ view.direction, y_here @ view.direction
    determinant = np.maximum(xx * yy - xy**2, 1e-12)
    first = (yy * xt - xy * yt) / determinant
    second = (xy * xt - xx * yt) / determinant
    angle = np.sqrt(determinant / (xx * yy))
    return first, second, angle
