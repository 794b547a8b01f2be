"""Camera poses from other people's files, as camera-to-world matrices with z forward and y down.

| format | file | |
| --- | --- | --- |
| tum | text: seconds x y z qx qy qz qw | stamps |
| kitti | text: the 3x4 matrix of each frame in a row | one per frame |
| vipe | .npz: `data` [n, 4, 4], `inds` [n] (ViPE) | frame numbers |
| colmap | images.txt: world to camera | numbers in the names |
| nerfstudio | transforms.json: camera y up, z back | numbers in the names |
| arkit | text: seconds, x, y, z, qw, qx, qy, qz (ios_logger); camera y up, z back | stamps |
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from loci.errors import LociError

PoseFormat = Literal["tum", "kitti", "vipe", "colmap", "nerfstudio", "arkit"]
GAP_SECONDS = 0.35
"""Between poses further apart than this, or than three times the usual, the motion is unknown."""
END_SECONDS = 0.5
"""How much longer than the poses a film may be."""


@dataclass(frozen=True)
class PoseFile:
    """Poses as they stand in a file.

    Attributes:
        poses: camera to world.
        stamps: seconds, or frame numbers; rising.
        timed: whether the stamps are seconds.
        repeated: stamps that occurred again and were left out.
        fov: horizontal field of view in degrees, if the file says.
    """

    poses: Float[np.ndarray, "n 4 4"]
    stamps: Float[np.ndarray, "n"]
    timed: bool
    repeated: int = 0
    fov: float | None = None


def read_poses(path: Path, format: PoseFormat | None = None) -> PoseFile:
    """Poses in any of the formats; by default as name and content suggest.

    Raises:
        LociError: when the file cannot be read, or holds no proper poses.
    """
    try:
        format = format or _guess(path)
        if format not in get_args(PoseFormat):
            expected = ", ".join(get_args(PoseFormat))
            raise LociError(f"--poses-format: {format!r}, expected one of {expected}")
        poses, stamps, timed, fov = _READERS[format](path)
    except OSError as error:
        raise LociError(f"{path}: cannot read the poses ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise LociError(f"{path}: no poses in the format {format} ({error})") from error
    if len(poses) < 2:
        raise LociError(f"{path}: {len(poses)} poses, expected one for every frame")
    bad = np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)) | ~np.isfinite(stamps))
    if len(bad):
        raise LociError(f"{path}: pose {bad[0] + 1} is not finite, expected numbers")
    _check_rotations(path, poses)
    back = np.flatnonzero(np.diff(stamps) < 0)
    if len(back):
        raise LociError(f"{path}: the stamp of pose {back[0] + 2} goes back, expected rising ones")
    new = np.concatenate([[True], np.diff(stamps) > 0])
    return PoseFile(poses[new], stamps[new], timed, int((~new).sum()), fov)


def _check_rotations(path: Path, poses: Float[np.ndarray, "n 4 4"]) -> None:
    rotations = poses[:, :3, :3]
    determinants = np.linalg.det(rotations)
    if (determinants < 0).any():
        raise LociError(
            f"{path}: left-handed axes in pose {np.flatnonzero(determinants < 0)[0] + 1}, "
            "expected rotations of determinant 1"
        )
    error = np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max(axis=(1, 2))
    if (error > 0.02).any():
        raise LociError(
            f"{path}: pose {np.flatnonzero(error > 0.02)[0] + 1} is no rotation and position, "
            "expected an orthonormal matrix or a unit quaternion"
        )
    u, _, vt = np.linalg.svd(rotations)
    poses[:, :3, :3] = u @ vt


def at_times(
    file: PoseFile, times: Float[np.ndarray, "n"], frames: int, fps: float, path: Path
) -> tuple[Float[np.ndarray, "n 4 4"], np.ndarray]:
    """Poses at times in seconds from the film's first frame, and whether each is known.

    Stamps in seconds begin with the film. Numbered poses count the film's frames.

    Args:
        file: the poses.
        times: where poses are wanted.
        frames: in the film, as decoded.
        fps: frames per second of the film, as decoded.
        path: of the pose file, for errors.

    Raises:
        LociError: when the poses are of another film.
    """
    first = file.stamps[0]
    if file.timed:
        stamps = file.stamps - first
        if stamps[-1] < times[-1] - END_SECONDS:
            raise LociError(
                f"{path}: poses of {stamps[-1]:.1f} seconds, expected {times[-1]:.1f} as the film"
            )
    else:
        numbers = int(file.stamps[-1] - first) + 1
        if abs(numbers - frames) > 1:
            raise LociError(
                f"{path}: {numbers} poses, expected {frames}, one for each frame of the film"
            )
        stamps = (file.stamps - first) / fps
    steps = np.diff(stamps)
    limit = max(GAP_SECONDS, 3 * float(np.median(steps)))
    inside = times.clip(0, stamps[-1])
    after = np.searchsorted(stamps, inside, side="left").clip(1, len(stamps) - 1)
    known = (steps[after - 1] <= limit) & (times <= stamps[-1] + 2 * float(np.median(steps)))
    result = np.tile(np.eye(4), (len(times), 1, 1))
    slerp = Slerp(stamps, Rotation.from_matrix(file.poses[:, :3, :3]))
    result[:, :3, :3] = slerp(inside).as_matrix()
    for axis in range(3):
        result[:, axis, 3] = np.interp(inside, stamps, file.poses[:, axis, 3])
    return result, known


def _guess(path: Path) -> PoseFormat:
    if path.suffix == ".npz":
        return "vipe"
    if path.suffix == ".json":
        return "nerfstudio"
    rows = [r for r in path.read_text(errors="replace").splitlines() if r.strip()]
    lines = [r for r in rows if not r.startswith("#")]
    columns = len(re.split(r"[,\s]+", lines[0].strip())) if lines else 0
    if columns == 12:
        return "kitti"
    if lines and "," in lines[0]:
        return "arkit"
    if columns >= 10:
        return "colmap"
    return "tum"


_Read = tuple[np.ndarray, np.ndarray, bool, float | None]


def _matrices(rotations: Rotation, places: Float[np.ndarray, "n 3"]) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(places), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations.as_matrix(), places
    return poses


def _table(path: Path, columns: int) -> Float[np.ndarray, "n c"]:
    text = path.read_text().replace(",", " ")
    table = np.loadtxt([r for r in text.splitlines() if r.strip() and r[0] != "#"], ndmin=2)
    if table.shape[1] != columns:
        raise ValueError(f"{table.shape[1]} columns, expected {columns}")
    return table


def _quaternions(xyzw: Float[np.ndarray, "n 4"]) -> Rotation:
    size = np.linalg.norm(xyzw, axis=1)
    if (np.abs(size[np.isfinite(size)] - 1) > 0.02).any():
        raise ValueError("a quaternion is not of length 1")
    return Rotation.from_quat(np.where(np.isfinite(xyzw), xyzw, 1.0))


def _read_tum(path: Path) -> _Read:
    table = _table(path, 8)
    poses = _matrices(_quaternions(table[:, 4:]), table[:, 1:4])
    poses[~np.isfinite(table).all(axis=1)] = np.nan
    return poses, table[:, 0], True, None


def _read_arkit(path: Path) -> _Read:
    table = _table(path, 8)
    poses = _matrices(_quaternions(table[:, [5, 6, 7, 4]]), table[:, 1:4])
    poses[~np.isfinite(table).all(axis=1)] = np.nan
    return _from_gl(poses), table[:, 0], True, None


def _read_kitti(path: Path) -> _Read:
    rows = _table(path, 12).reshape(-1, 3, 4)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows
    return poses, np.arange(len(rows), dtype=float), False, None


def _read_vipe(path: Path) -> _Read:
    with np.load(path, allow_pickle=False) as stored:
        poses = stored["data"].astype(float)
        numbers = stored["inds"] if "inds" in stored else np.arange(len(poses))
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f"data {list(poses.shape)}, expected [n, 4, 4]")
    return poses, np.asarray(numbers, float), False, None


def _read_colmap(path: Path) -> _Read:
    found = []
    # Every second line lists points, and may be empty.
    lines = [r for r in path.read_text().splitlines() if not r.startswith("#")]
    for line in lines[::2]:
        words = line.split()
        if len(words) < 10:
            continue
        found.append((words[9], np.array(words[1:8], float)))
    found.sort(key=lambda entry: _number(entry[0]))
    values = np.array([value for _, value in found]).reshape(-1, 7)
    turns = _quaternions(values[:, [1, 2, 3, 0]]).inv()
    poses = _matrices(turns, -turns.apply(values[:, 4:]))
    return poses, np.array([_number(name) for name, _ in found]), False, None


def _read_nerfstudio(path: Path) -> _Read:
    content = json.loads(path.read_text())
    frames = sorted(content["frames"], key=lambda frame: _number(frame["file_path"]))
    poses = np.array([frame["transform_matrix"] for frame in frames], float)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f"transform_matrix {list(poses.shape[1:])}, expected [4, 4]")
    fov = None
    if "fl_x" in content and "w" in content:
        fov = float(np.degrees(2 * np.arctan(content["w"] / 2 / content["fl_x"])))
    numbers = np.array([_number(frame["file_path"]) for frame in frames])
    return _from_gl(poses), numbers, False, fov


def _from_gl(poses: np.ndarray) -> np.ndarray:
    """From a camera with y up and z back."""
    return poses @ np.diag([1.0, -1, -1, 1])


def _number(name: str) -> float:
    """The last number in a file's name."""
    found = re.findall(r"\d+", Path(name).stem)
    if not found:
        raise ValueError(f"{name}: no number in the name of a frame")
    return float(found[-1])


_READERS = {
    "tum": _read_tum,
    "kitti": _read_kitti,
    "vipe": _read_vipe,
    "colmap": _read_colmap,
    "nerfstudio": _read_nerfstudio,
    "arkit": _read_arkit,
}
