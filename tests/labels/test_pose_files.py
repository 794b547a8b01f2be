import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loci.errors import LociError
from loci.labels.pose_files import at_times, read_poses
from tests.labels.room import walk

POSES = walk(["w"] * 5 + ["wl"] * 6 + ["ai"] * 6)
GL = np.diag([1.0, -1, -1, 1])


def tum(poses: np.ndarray, fps: float = 10.0) -> str:
    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    rows = np.column_stack([np.arange(len(poses)) / fps + 1e9, poses[:, :3, 3], quaternions])
    return "# a comment\n" + "\n".join(" ".join(f"{v:.9f}" for v in row) for row in rows)


def write(folder: Path, format: str) -> Path:
    turns = Rotation.from_matrix(POSES[:, :3, :3])
    if format == "tum":
        (path := folder / "poses.txt").write_text(tum(POSES))
    elif format == "kitti":
        np.savetxt(path := folder / "poses.txt", POSES[:, :3].reshape(-1, 12))
    elif format == "vipe":
        np.savez(path := folder / "poses.npz", data=POSES, inds=np.arange(len(POSES)))
    elif format == "arkit":
        turned = Rotation.from_matrix((POSES @ GL)[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]]
        rows = np.column_stack([np.arange(len(POSES)) / 10, POSES[:, :3, 3], turned])
        np.savetxt(path := folder / "ARposes.txt", rows, delimiter=",")
    elif format == "colmap":
        lines = ["# Image list", "# points"]
        for i in (3, *range(3), *range(4, len(POSES))):  # in no order
            inverse = turns[i].inv()
            x, y, z, w = inverse.as_quat()
            t = -inverse.apply(POSES[i, :3, 3])
            lines += [f"{i + 1} {w} {x} {y} {z} {t[0]} {t[1]} {t[2]} 1 frame_{i:04d}.png", ""]
        (path := folder / "images.txt").write_text("\n".join(lines))
    else:
        frames = [
            {"file_path": f"images/{i:03d}.jpg", "transform_matrix": (pose @ GL).tolist()}
            for i, pose in enumerate(POSES)
        ]
        content = {"fl_x": 500.0, "w": 1000, "frames": frames[::-1]}
        (path := folder / "transforms.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("format", ["tum", "kitti", "vipe", "colmap", "nerfstudio", "arkit"])
def test_every_format_is_read_and_recognised(format: str, tmp_path: Path) -> None:
    file = read_poses(write(tmp_path, format))
    assert file.poses == pytest.approx(POSES, abs=1e-6)
    assert file.timed == (format in ("tum", "arkit"))
    if format == "nerfstudio":
        assert file.fov == pytest.approx(90)


def test_poses_between_stamps_and_in_gaps(tmp_path: Path) -> None:
    lines = tum(POSES).splitlines()
    (path := tmp_path / "poses.txt").write_text("\n".join([*lines[:6], lines[5], *lines[11:]]))
    file = read_poses(path)
    assert file.repeated == 1
    times = np.array([0.05, 0.35, 0.7, 1.2])
    poses, known = at_times(file, times, 0, 10, path)
    assert known.tolist() == [True, True, False, True]
    assert poses[0, :3, 3] == pytest.approx((POSES[0] + POSES[1])[:3, 3] / 2)
    assert poses[3] == pytest.approx(POSES[12], abs=1e-6)


BAD = {
    "nan": (lambda text: text.replace("0.120000000", "nan"), "not finite"),
    "columns": (lambda text: text.replace(" 0.000000000", "", 1), "tum"),
    "words": (lambda text: text + "\nhello", "tum"),
    "back": (lambda text: text + "\n" + text.splitlines()[1], "goes back"),
    "empty": (lambda text: "", "tum"),
    "one": (lambda text: text.splitlines()[1], "1 poses"),
    "length": (lambda text: text.replace("1.000000000", "2.000000000"), "length 1"),
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("case", BAD)
def test_bad_poses_are_refused(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    (path := tmp_path / "poses.txt").write_text(change(tum(POSES)))
    with pytest.raises(LociError, match=message) as error:
        read_poses(path, "tum")
    assert str(path) in str(error.value)
    assert "expected" in str(error.value) or "no poses" in str(error.value)


def test_left_handed_axes_and_poses_of_another_film(tmp_path: Path) -> None:
    flipped = POSES @ np.diag([1.0, -1, 1, 1])
    np.savez(path := tmp_path / "poses.npz", data=flipped, inds=np.arange(len(POSES)))
    with pytest.raises(LociError, match="left-handed"):
        read_poses(path)
    path = write(tmp_path, "kitti")
    with pytest.raises(LociError, match="18 poses, expected 40"):
        at_times(read_poses(path), np.arange(40) / 10, 40, 10, path)
    path = write(tmp_path, "tum")
    with pytest.raises(LociError, match=r"poses of 1\.7 seconds, expected 5\.0"):
        at_times(read_poses(path), np.arange(51) / 10, 51, 10, path)
    with pytest.raises(LociError, match="cannot read"):
        read_poses(tmp_path / "none.txt")
