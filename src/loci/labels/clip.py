"""One film, labelled: frames, actions, increments, poses, and what is odd about the film."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial.transform import Rotation

from loci.actions import UNCERTAIN
from loci.errors import LociError
from loci.labels.film import (
    MIN_FRAMES,
    FrameTimes,
    analysed,
    film_info,
    fitted,
    fitted_fov,
    read_film,
    undistorted,
)
from loci.labels.motion import Motion, motion_sigmas, planar, planar_increments, pose_noise
from loci.labels.odometry import CameraPath, camera_matrix, odometry, path_motion
from loci.labels.pose_files import PoseFormat, at_times, read_poses
from loci.labels.tracks import Tracker
from loci.labels.tristate import Labels, label_motion
from loci.labels.two_view import two_view

GAP_SECONDS = 0.25
ONE_SIDED = 3.0
"""One way of turning or strafing is this many times as frequent as the other."""


@dataclass(frozen=True)
class LabelOptions:
    """How films are labelled.

    Args:
        fps: frames per second of the result, at most.
        size: height and width of the frames for a model.
        fov: field of view across the longer side of the films, in degrees.
        poses: a file of poses, instead of odometry.
        format: of that file.
        distortion: of the lens, see `undistorted`.
        there_and_back: how many times a film is played to its end and back; 0 plays it once.
    """

    fps: float = 15.0
    size: tuple[int, int] = (128, 128)
    fov: float = 65.0
    poses: Path | None = None
    format: PoseFormat | None = None
    distortion: float = 0.0
    there_and_back: int = 0


@dataclass(frozen=True)
class LabelledClip:
    """A film and the motion in it. Lengths are in strides: the median move of a moving frame.

    Attributes:
        frames: for a model.
        actions: move and view ids; `actions[t]` lead from frame t to t + 1, the last is uncertain.
        poses: x, y in strides and the heading in degrees, counter-clockwise; from 0 in every run.
        cameras: camera-to-world matrices, in strides.
        increments: forward, left in strides and the turn to the left in degrees of every step.
        covariance: of the increments.
        certain: whether move and view are certain.
        runs: first frame of each stretch without a cut.
        fps, fov: of `frames`.
        labels, motion: thresholds, and the motion that they were applied to.
        times: of every frame in the film, in seconds.
        warnings: about the film, for people.
    """

    frames: UInt8[np.ndarray, "n h w 3"]
    actions: Int[np.ndarray, "n 2"]
    poses: Float[np.ndarray, "n 3"]
    cameras: Float[np.ndarray, "n 4 4"]
    increments: Float[np.ndarray, "n-1 3"]
    covariance: Float[np.ndarray, "n-1 3 3"]
    certain: Bool[np.ndarray, "n 2"]
    runs: tuple[int, ...]
    fps: float
    fov: float
    labels: Labels
    motion: Motion
    times: Float[np.ndarray, "n"]
    warnings: tuple[str, ...]


def label_clip(
    path: Path, options: LabelOptions, progress: Callable[[int], None] | None = None
) -> LabelledClip:
    """Labels one film.

    Args:
        path: the film.
        options: how.
        progress: called with the number of frames done.

    Raises:
        LociError: when it cannot be labelled.
    """
    file = None if options.poses is None else read_poses(options.poses, options.format)
    info = film_info(path)
    fps = min(options.fps, info.fps)
    fov = _across(options.fov, info.width, info.height)
    if file is not None and file.fov is not None:
        fov = file.fov
    seen, times, small, gray = FrameTimes(), [], [], []

    def frames():
        for number, (time, frame) in enumerate(read_film(path, fps, seen)):
            times.append(time)
            frame = undistorted(frame, options.distortion, fov)
            small.append(fitted(frame, options.size))
            if progress is not None:
                progress(number + 1)
            yield analysed(frame)

    warnings = list(info.warnings)
    if file is None:
        camera_path = odometry(frames(), fov)
        at = np.array(times)
    else:
        gray = list(frames())
        at = np.array(times)
        _check_count(path, at)
        assert options.poses is not None
        rate = (len(seen.times) - 1) / max(seen.times[-1], 1e-9)
        poses, known = at_times(file, at, len(seen.times), rate, options.poses)
        camera_path = _given_path(poses, known, gray)
        warnings += _check_axes(camera_path, gray, fov)
        if file.repeated:
            warnings.append(f"{file.repeated} poses repeat a stamp and were left out")
        if not known.all():
            warnings.append(f"gaps in the poses: {int((~known).sum())} frames are uncertain")
    _check_count(path, at)
    camera_path = _split_at_gaps(camera_path, at, warnings)
    motion = path_motion(camera_path, fps) if file is None else _given_motion(camera_path, fps)
    labels = label_motion(motion)
    if not motion.known.any():
        raise LociError(f"{path}: no frame could be matched to the next, expected a sharp film")
    if not labels.ids[motion.known].any():
        raise LociError(f"{path}: no motion found, expected a camera that moves or turns")
    if not (labels.ids[motion.known] % UNCERTAIN).any():
        raise LociError(
            f"{path}: no motion stands out from its noise, expected faster motion, or --poses"
        )
    if seen.repeated:
        warnings.append(f"{seen.repeated} frames repeat a stamp and were left out")
    warnings += _warnings(camera_path, labels, at)
    return _assemble(np.stack(small), camera_path, motion, labels, at, fps, info, fov, warnings)


def _check_count(path: Path, times: np.ndarray) -> None:
    if len(times) < MIN_FRAMES:
        raise LociError(f"{path}: {len(times)} frames, expected at least {MIN_FRAMES}")


def _across(fov: float, width: int, height: int) -> float:
    """Horizontal field of view of a film whose longer side has one of `fov`."""
    if width >= height:
        return fov
    return float(np.degrees(2 * np.arctan(width / height * np.tan(np.radians(fov / 2)))))


def _given_path(poses: np.ndarray, known: np.ndarray, gray: list[np.ndarray]) -> CameraPath:
    """A path from a file, with the cuts of the film."""
    tracker, runs = Tracker(), [0]
    for number, frame in enumerate(gray):
        matches = tracker.advance(frame)
        if matches is not None and matches.cut:
            runs.append(number)
    steps = len(poses) - 1
    return CameraPath(poses, tuple(runs), known[1:] & known[:-1], np.zeros(steps), np.zeros(steps))


def _given_motion(path: CameraPath, fps: float) -> Motion:
    """Motion along given poses; noise is estimated within the longest run."""
    begin, end = max(path.parts(), key=lambda part: part[1] - part[0])
    motion = path_motion(path, fps)
    sigmas = motion_sigmas(motion.move, *pose_noise(path.poses[begin:end], fps))
    return Motion(motion.move, motion.view, *sigmas, motion.known, motion.span, fps)


def _split_at_gaps(path: CameraPath, times: np.ndarray, warnings: list[str]) -> CameraPath:
    """Where the film pauses, the motion is unknown."""
    gaps = np.diff(times) > GAP_SECONDS
    if not gaps.any():
        return path
    many = "1 gap" if gaps.sum() == 1 else f"{int(gaps.sum())} gaps"
    warnings.append(f"{many} in the film, the longest {np.diff(times).max():.1f} s")
    return CameraPath(
        path.poses,
        path.runs,
        path.known & ~gaps,
        path.rotation_sigma,
        path.move_sigma,
        path.kinds,
        path.lost,
        path.breaks,
    )


def _check_axes(path: CameraPath, gray: list[np.ndarray], fov: float) -> list[str]:
    """Compares the turns of given poses with what two frames show, where they turn most. Steps
    within gaps of the poses are left out."""
    camera = camera_matrix(gray[0].shape[1], gray[0].shape[0], fov)
    steps = np.flatnonzero(path.known)
    relative = np.linalg.inv(path.poses[steps]) @ path.poses[steps + 1]
    given = Rotation.from_matrix(relative[:, :3, :3]).as_rotvec(degrees=True)
    size = np.linalg.norm(given, axis=1)
    misses, sizes = [], []
    for number in np.argsort(-size)[:12]:
        if size[number] < 0.3:
            break
        tracker, step = Tracker(), steps[number]
        tracker.advance(gray[step])
        matches = tracker.advance(gray[step + 1])
        view = two_view(matches.before, matches.after, camera) if matches else None
        if view is None or view.kind == "lost":
            continue
        found = Rotation.from_matrix(view.rotation).as_rotvec(degrees=True)
        misses.append(np.linalg.norm(found - given[number]))
        sizes.append(size[number])
    if len(misses) >= 3 and np.median(np.array(misses) / np.array(sizes)) > 0.7:
        return ["axes look wrong: the poses turn otherwise than the film does"]
    moved = relative[:, :3, 3]
    length = np.abs(moved).mean(axis=0)
    if length[1] > 2 * max(length[0], length[2]) > 0:
        return ["axes look wrong: the camera mostly moves up or down in its own axes"]
    if moved[:, 2].sum() < -0.5 * np.abs(moved).sum():
        return ["axes look wrong: the camera mostly moves backwards"]
    return []


def _warnings(path: CameraPath, labels: Labels, times: np.ndarray) -> list[str]:
    found = []
    if len(path.runs) > 1:
        where = ", ".join(f"{times[run]:.1f}" for run in path.runs[1:6])
        cuts = "1 cut" if len(path.runs) == 2 else f"{len(path.runs) - 1} cuts"
        found.append(f"{cuts}, at {where} seconds: each run has its own scale")
    if labels.stride == 0:
        found.append("no parallax: the camera turns but does not visibly move")
    if path.lost:
        found.append(f"{path.lost} frames could not be matched (blur, darkness, plain walls)")
    if path.breaks:
        found.append(f"the scale was lost {len(path.breaks)} times and set by the walking speed")
    names = (("view", "turns", (3, 5, 7), (4, 6, 8)), ("move", "side steps", (3, 5, 7), (4, 6, 8)))
    for channel, what, left, right in names:
        ids = labels.ids[:, int(channel == "view")]
        counts = np.isin(ids, left).sum(), np.isin(ids, right).sum()
        if sum(counts) > 0.1 * len(ids) and max(counts) > ONE_SIDED * max(1, min(counts)):
            side = "left" if counts[0] > counts[1] else "right"
            found.append(f"one-sided: {what} go mostly to the {side} ({max(counts)}:{min(counts)})")
    if (share := (labels.ids == UNCERTAIN).mean(axis=0)).max() > 0.5:
        found.append(f"much is uncertain: {share[0]:.0%} of moves, {share[1]:.0%} of views")
    return found


def _assemble(
    frames: np.ndarray,
    path: CameraPath,
    motion: Motion,
    labels: Labels,
    times: np.ndarray,
    fps: float,
    info: object,
    fov: float,
    warnings: list[str],
) -> LabelledClip:
    unit = labels.stride or _median_step(path.poses)
    cameras = path.poses.copy()
    cameras[:, :3, 3] /= unit
    poses = np.zeros((len(frames), 3))
    for begin, end in path.parts():
        poses[begin:end] = planar(cameras[begin:end])
    increments = planar_increments(poses)
    for run in path.runs[1:]:
        increments[run - 1] = 0
    per_step = 1 / np.sqrt(motion.span)
    deviations = np.column_stack(
        [motion.move_sigma * per_step / unit] * 2 + [motion.view_sigma * per_step]
    )
    unknown = ~motion.known
    deviations[unknown] = [2.0, 2.0, 45.0]
    actions = np.full((len(frames), 2), UNCERTAIN, np.int64)
    actions[:-1] = labels.ids
    certain = actions != UNCERTAIN
    height, width = frames.shape[1:3]
    assert hasattr(info, "width")
    kept = fitted_fov(fov, info.width, info.height, (height, width))  # type: ignore
    return LabelledClip(
        frames,
        actions,
        poses,
        cameras,
        increments,
        deviations[:, :, None] * deviations[:, None] * np.eye(3),
        certain,
        path.runs,
        fps,
        kept,
        labels,
        motion,
        times,
        tuple(warnings),
    )


def _median_step(poses: np.ndarray) -> float:
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    moving = steps[steps > 1e-9]
    return float(np.median(moving)) if len(moving) else 1.0
