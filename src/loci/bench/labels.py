"""`loci bench labels`: how right the labels of films are, on trajectories and rendered walks.

Trajectories with a truth beside an estimate show how labels fare with real noise, and with half
and twice as much. Rendered walks with true poses show how exact odometry is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.optimize import bisect
from scipy.spatial.transform import Rotation

from loci.actions import UNCERTAIN
from loci.bench.report import table, write_json
from loci.errors import LociError
from loci.io.files import check_writable
from loci.labels.film import analysed, read_film
from loci.labels.motion import (
    Motion,
    between,
    mirrored,
    moved,
    span_steps,
    spans,
    trajectory_motion,
)
from loci.labels.odometry import CameraPath, odometry, path_motion
from loci.labels.pose_files import PoseFile, at_times, read_poses
from loci.labels.tristate import label_motion, true_ids

if TYPE_CHECKING:
    from loci.envs.doom.engine import DoomWalker

CHANNELS = ("move", "view")
NOISE = (0.5, 1.0, 2.0)
FPS = 15.0
WALK_FRAMES = 240
ENGINE_FOV = 105.0
_SWAPPED = np.array([0, 1, 2, 4, 3, 6, 5, 8, 7, 9])


class Trajectory(NamedTuple):
    """True and estimated poses at the same even times."""

    name: str
    true: Float[np.ndarray, "n 4 4"]
    estimate: Float[np.ndarray, "n 4 4"]
    fps: float


def labels(json: Path, data: Path, walks: int = 4, seed: int = 100) -> None:
    """Measure labels on trajectories with real noise, and odometry on rendered walks.

    The second halves of the trajectories are measured, and walks in maps that no setting was chosen
    on; docs/labels.md says which settings were chosen on what.

    Args:
        json: where to write the results.
        data: a folder with `trajectories` (freiburg1_xyz, KITTI 00) and `kitchen_7scenes`.
        walks: how many rendered walks; 0 for none.
        seed: seed of the first walk.
    """
    if not (data / "trajectories").is_dir():
        raise LociError(f"--data: {data} has no trajectories, expected a folder with trajectories")
    if walks < 0:
        raise LociError(f"--walks: {walks}, expected 0 or more")
    check_writable(json)
    results: dict[str, Any] = {"trajectories": [], "walks": []}
    for trajectory in read_trajectories(data):
        for noise in NOISE:
            results["trajectories"] += measure(with_noise(trajectory, noise), noise)
        results["trajectories"][-1]["invariant"] = invariance(trajectory)
    if walks and (data / "kitchen_7scenes").is_dir():
        results["kitchen"] = measure_kitchen(data / "kitchen_7scenes")
    results["walks"] = [measure_walk(seed + number) for number in range(walks)]
    write_json(json, results)
    print(describe(results))


def read_trajectories(data: Path) -> Iterator[Trajectory]:
    """The second halves of freiburg1_xyz and KITTI 00, and the kitchen with the noise of
    freiburg1_xyz."""
    folder = data / "trajectories"
    true = read_poses(folder / "freiburg1_xyz-groundtruth.txt", "tum")
    estimate = read_poses(folder / "freiburg1_xyz-rgbdslam.txt", "tum")
    freiburg = _joined("freiburg1_xyz", true, estimate, FPS)
    yield _half(freiburg)
    stamps = np.loadtxt(folder / "KITTI_00_gt_times.txt")
    kitti = [
        replace(read_poses(folder / f"KITTI_00_{name}.txt", "kitti"), stamps=stamps, timed=True)
        for name in ("gt", "ORB")
    ]
    yield _half(_joined("KITTI 00", kitti[0], kitti[1], 10.0))
    path = data / "kitchen_7scenes" / "groundtruth.txt"
    if path.is_file():
        kitchen = read_poses(path, "tum")
        stamps = np.arange(kitchen.stamps[0], kitchen.stamps[-1], 1 / FPS)
        true, _ = at_times(kitchen, stamps - stamps[0], 0, FPS, path)
        error = np.linalg.inv(freiburg.true) @ freiburg.estimate
        # Forward and back, so that the noise is as long as the trajectory and has no jump.
        error = np.concatenate([error, error[-2::-1]])
        error = np.concatenate([error] * (len(true) // len(error) + 1))[: len(true)]
        yield Trajectory("kitchen, noise of freiburg1_xyz", true, true @ error, FPS)


def _joined(name: str, true: PoseFile, estimate: PoseFile, fps: float) -> Trajectory:
    begin = max(true.stamps[0], estimate.stamps[0])
    end = min(true.stamps[-1], estimate.stamps[-1])
    at = np.arange(begin, end, 1 / fps)
    poses = []
    for file in (true, estimate):
        poses.append(at_times(file, at - file.stamps[0], 0, fps, Path(name))[0])
    steps = [np.linalg.norm(np.diff(p[:, :3, 3], axis=0), axis=1) for p in poses]
    scale = float((steps[0] * steps[1]).sum() / (steps[1] ** 2).sum())
    scaled = moved(poses[1], np.eye(4), scale)
    return Trajectory(name, poses[0], moved(scaled, _onto(scaled, poses[0])), fps)


def _onto(
    poses: Float[np.ndarray, "n 4 4"], true: Float[np.ndarray, "n 4 4"]
) -> Float[np.ndarray, "4 4"]:
    """The rigid motion that brings the positions of poses closest to the true ones."""
    found, right = poses[:, :3, 3], true[:, :3, 3]
    turn = Rotation.align_vectors(right - right.mean(axis=0), found - found.mean(axis=0))[0]
    result = np.eye(4)
    result[:3, :3] = turn.as_matrix()
    result[:3, 3] = right.mean(axis=0) - turn.apply(found.mean(axis=0))
    return result


def _half(whole: Trajectory, second: bool = True) -> Trajectory:
    middle = len(whole.true) // 2
    part = slice(middle, None) if second else slice(0, middle)
    return whole._replace(true=whole.true[part], estimate=whole.estimate[part])


def with_noise(trajectory: Trajectory, factor: float) -> Trajectory:
    """The same with the estimate's error multiplied, but for its mean over the trajectory, which
    is a matter of axes."""
    error = np.linalg.inv(trajectory.true) @ trajectory.estimate
    turns = Rotation.from_matrix(error[:, :3, :3])
    offset = turns.mean()
    scaled = offset * Rotation.from_rotvec(factor * (offset.inv() * turns).as_rotvec())
    shift = error[:, :3, 3].mean(axis=0)
    result = np.tile(np.eye(4), (len(error), 1, 1))
    result[:, :3, :3] = scaled.as_matrix()
    result[:, :3, 3] = shift + factor * (error[:, :3, 3] - shift)
    return trajectory._replace(estimate=trajectory.true @ result)


@dataclass(frozen=True)
class Agreement:
    """Share of steps with a certain label, and of wrong ones among them."""

    kept: float
    wrong: float

    @classmethod
    def of(cls, ids: Int[np.ndarray, "n"], true: Int[np.ndarray, "n"]) -> Agreement:
        certain = ids != UNCERTAIN
        wrong = (ids != true)[certain].mean() if certain.any() else 0.0
        return cls(float(certain.mean()), float(wrong))


def measure(trajectory: Trajectory, noise: float) -> list[dict[str, Any]]:
    """Labels of an estimated trajectory against the truth, beside those of one threshold, and of
    two fixed ones that keep as many."""
    motion = trajectory_motion(trajectory.estimate, trajectory.fps)
    true = trajectory_motion(trajectory.true, trajectory.fps)
    found = label_motion(motion)
    rows = []
    for column, channel in enumerate(CHANNELS):
        middle = getattr(found, channel).middle
        expected = true_ids(getattr(true, channel), middle)
        estimate = getattr(motion, channel)
        ours = Agreement.of(found.ids[:, column], expected)
        fixed = Agreement.of(fixed_thresholds(estimate, middle, ours.kept), expected)
        error = getattr(motion, channel) - getattr(true, channel)
        sigma = getattr(motion, f"{channel}_sigma")[:, None]
        rows.append(
            {
                "trajectory": trajectory.name,
                "noise": noise,
                "channel": channel,
                "kept": ours.kept,
                "wrong": ours.wrong,
                "fixed_wrong": fixed.wrong,
                "one_threshold_wrong": Agreement.of(true_ids(estimate, middle), expected).wrong,
                "within_95": float((np.abs(error) < 1.96 * sigma).mean()),
            }
        )
    return rows


def fixed_thresholds(
    motion: Float[np.ndarray, "n 2"], threshold: float, kept: float
) -> Int[np.ndarray, "n"]:
    """Two thresholds symmetric about a middle one, without the test of sectors, that keep a
    share of the steps."""
    size = np.hypot(*motion.T)

    def surplus(half: float) -> float:
        return float((np.abs(size - threshold) >= half).mean()) - kept

    half = 0.0
    if kept < 1:
        half = float(bisect(surplus, 0.0, size.max() + threshold, xtol=1e-9))  # type: ignore
    ids = true_ids(motion, threshold)
    ids[np.abs(size - threshold) < half] = UNCERTAIN
    return ids


def invariance(trajectory: Trajectory) -> bool:
    """Whether labels stay for a trajectory moved rigidly and scaled, and left and right swap for
    its mirror image."""
    poses, fps = trajectory.estimate, trajectory.fps
    before = label_motion(trajectory_motion(poses, fps)).ids
    by = np.eye(4)
    by[:3, :3] = Rotation.from_rotvec([0.3, -1.2, 2.1]).as_matrix()
    by[:3, 3] = 3.0, -7.0, 11.0
    after = label_motion(trajectory_motion(moved(poses, by, 0.037), fps)).ids
    swapped = label_motion(trajectory_motion(mirrored(poses), fps)).ids
    return bool((before == after).all() and (_SWAPPED[before] == swapped).all())


def record_walk(
    seed: int, frames: int = WALK_FRAMES
) -> tuple[list[UInt8[np.ndarray, "h w"]], Float[np.ndarray, "n 4 4"], Int[np.ndarray, "n-1 2"]]:
    """Grey frames of 512x384 pixels, camera poses and actions of a walk through a Doom map."""
    import cv2

    from loci.envs.doom.engine import STEP, DoomWalker, RenderSettings
    from loci.envs.doom.maps import make_map
    from loci.envs.doom.walks import KINDS, Wanderer

    doom_map = make_map(seed)
    gray, poses, actions = [], [], []
    with DoomWalker([doom_map], RenderSettings(128)) as walker:
        walker.enter(0)
        wanderer = Wanderer(doom_map, KINDS[seed % 2], seed)
        blocked = 0
        for _ in range(frames):
            wanderer.pose = walker.pose()
            gray.append(cv2.cvtColor(_whole_frame(walker), cv2.COLOR_RGB2GRAY))
            poses.append(wanderer.pose)
            actions.append(wanderer.action())
            walker.step(*actions[-1])
            there = walker.pose()
            moved_by = np.hypot(there[0] - poses[-1][0], there[1] - poses[-1][1])
            blocked = blocked + 1 if actions[-1][0] and moved_by < STEP / 2 else 0
            if blocked == 2:
                wanderer.pose, blocked = there, 0
                wanderer.blocked()
    return gray, camera_poses(np.array(poses)), np.array(actions[:-1])


def _whole_frame(walker: DoomWalker) -> UInt8[np.ndarray, "384 512 3"]:
    return walker._game.get_state().screen_buffer


def camera_poses(poses: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 4 4"]:
    """Camera-to-world matrices of x, y and a heading in degrees, counter-clockwise."""
    angle = np.radians(poses[:, 2])
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(angle))
    cameras = np.tile(np.eye(4), (len(poses), 1, 1))
    cameras[:, :3, 0] = np.column_stack([sin, -cos, zero])
    cameras[:, :3, 1] = [0, 0, -1]
    cameras[:, :3, 2] = np.column_stack([cos, sin, zero])
    cameras[:, :2, 3] = poses[:, :2]
    return cameras


def measure_walk(seed: int) -> dict[str, Any]:
    """Odometry and labels of a rendered walk against the truth."""
    gray, true, actions = record_walk(seed)
    path = odometry(gray, ENGINE_FOV)
    found, motion = label_motion(path_motion(path, FPS)), exact_motion(true)
    expected = label_motion(motion)
    result: dict[str, Any] = {"seed": seed, **_errors(path, true)}
    for column, channel in enumerate(CHANNELS):
        threshold = getattr(expected, channel).middle
        ids = found.ids[:, column]
        agreement = Agreement.of(ids, true_ids(getattr(motion, channel), threshold))
        certain = ids != UNCERTAIN
        result[f"{channel}_kept"], result[f"{channel}_wrong"] = agreement.kept, agreement.wrong
        result[f"{channel}_as_keys"] = float((ids == actions[:, column])[certain].mean())
        still = ~getattr(motion, channel).any(axis=1) if channel == "move" else None
        if still is not None:
            result["still_kept"] = float(certain[still].mean())
            result["still_wrong"] = float((ids[still & certain] != 0).mean())
    return result


def measure_kitchen(folder: Path) -> dict[str, Any]:
    """Odometry and labels of a real film with true poses."""
    film = folder / "color_320x240.mp4"
    fov = float(np.degrees(2 * np.arctan(160 / 292.5)))
    timed = list(read_film(film, FPS))
    true_file = read_poses(folder / "groundtruth.txt", "tum")
    times = np.array([time for time, _ in timed])
    true, _ = at_times(true_file, times, 0, FPS, folder)
    path = odometry((analysed(frame) for _, frame in timed), fov)
    found, motion = label_motion(path_motion(path, FPS)), exact_motion(true)
    expected = label_motion(motion)
    result: dict[str, Any] = _errors(path, true)
    for column, channel in enumerate(CHANNELS):
        threshold = getattr(expected, channel).middle
        right = true_ids(getattr(motion, channel), threshold)
        agreement = Agreement.of(found.ids[:, column], right)
        result[f"{channel}_kept"], result[f"{channel}_wrong"] = agreement.kept, agreement.wrong
    return result


def exact_motion(poses: Float[np.ndarray, "n 4 4"], fps: float = FPS) -> Motion:
    """Motion along true poses, without noise."""
    steps, span = len(poses) - 1, span_steps(fps)
    move, view = between(poses, *spans(steps, span))
    none = np.full(steps, 1e-9)
    move[np.abs(move) < 1e-6], view[np.abs(view) < 1e-6] = 0, 0
    return Motion(move, view, none, none, np.ones(steps, bool), span, fps)


def _errors(path: CameraPath, true: Float[np.ndarray, "n 4 4"]) -> dict[str, float]:
    """Errors of single steps: rotation and direction in degrees, lengths relative to the median."""
    right, found = (np.linalg.inv(p[:-1]) @ p[1:] for p in (true, path.poses))
    miss = np.swapaxes(right[:, :3, :3], 1, 2) @ found[:, :3, :3]
    turn = np.degrees(Rotation.from_matrix(miss).magnitude())[path.known]
    size, length = (np.linalg.norm(p[:, :3, 3], axis=1) for p in (right, found))
    unit = float(np.median(size[size > 0.2 * np.quantile(size, 0.9)]))
    moving = (size > unit / 12) & (length > 1e-6) & path.known
    cosine = (right[moving, :3, 3] * found[moving, :3, 3]).sum(axis=1)
    direction = np.degrees(np.arccos((cosine / size[moving] / length[moving]).clip(-1, 1)))
    scale = length[moving] / size[moving]
    scale /= np.median(scale)
    return {
        "rotation_median": float(np.median(turn)),
        "rotation_p90": float(np.quantile(turn, 0.9)),
        "direction_median": float(np.median(direction)),
        "direction_p90": float(np.quantile(direction, 0.9)),
        "scale_p5": float(np.quantile(scale, 0.05)),
        "scale_p95": float(np.quantile(scale, 0.95)),
        "lost": float((~path.known).mean()),
        "false_moves": float(((size < unit / 24) & (length > 1e-6) & path.known).mean()),
        "missed_moves": float(((size > unit / 12) & (length < 1e-6))[path.known].mean()),
    }


def describe(results: dict[str, Any]) -> str:
    """Both tables as text."""
    names = ["trajectory", "noise", "channel", "kept", "wrong", "fixed_wrong"]
    names += ["one_threshold_wrong", "within_95"]
    text = table(names, [[row[name] for name in names] for row in results["trajectories"]])
    if results["walks"]:
        names = ["seed", "move_kept", "move_wrong", "view_kept", "view_wrong", "still_kept"]
        names += ["still_wrong", "move_as_keys", "rotation_median", "direction_median", "lost"]
        text += "\n\n" + table(names, [[row[name] for name in names] for row in results["walks"]])
    if "kitchen" in results:
        text += "\n\n" + table(
            ["kitchen, filmed", "value"], [[*item] for item in results["kitchen"].items()]
        )
    return text
