"""A user's own geometry: read, turned into our frame, checked."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.objects.inputs.pointmap import (
    check_covers,
    fitted_fov,
    fitted_pointmap,
    fitted_principal,
    read_pointmap,
)
from tests.objects.lifters import example, example_pointmap

POINTS = example_pointmap()


def fitted(points: Any, height: int = 40, width: int = 60, **options: Any) -> torch.Tensor:
    return fitted_pointmap(read_pointmap(points, **options), height, width)


def test_files_arrays_and_tensors_are_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", POINTS.astype(np.float64))
    for source in (POINTS, torch.from_numpy(POINTS), tmp_path / "points.npy"):
        assert torch.equal(read_pointmap(source), torch.from_numpy(POINTS))


def test_opencv_is_turned_into_our_frame() -> None:
    opencv = POINTS * np.array([-1, -1, 1], np.float32)
    assert torch.equal(fitted(opencv, frame="opencv"), fitted(POINTS))


def test_a_frame_that_was_not_named_is_noticed() -> None:
    with pytest.raises(LociError, match="x grows to the right, expected x left, y up, z forward"):
        fitted(POINTS * np.array([-1, 1, 1], np.float32))
    with pytest.raises(LociError, match="y grows downwards"):
        fitted(POINTS * np.array([1, -1, 1], np.float32))
    with pytest.raises(LociError, match="x grows"):
        fitted(POINTS, frame="opencv")


def test_depths_become_points(tmp_path: Path) -> None:
    np.save(tmp_path / "depth.npy", POINTS[:, :, 2])
    points = read_pointmap(tmp_path / "depth.npy", fov=40)
    assert torch.allclose(points, torch.from_numpy(POINTS), atol=1e-5)
    with pytest.raises(LociError, match="expected the field of view too"):
        read_pointmap(POINTS[:, :, 2])


@given(st.integers(2, 90), st.integers(2, 90), st.floats(15, 110))
def test_fix_the_camera_is_not_lost(height: int, width: int, fov: float) -> None:
    """The published pipeline drops the intrinsics that came with a pointmap."""
    points = fitted(example_pointmap(height, width, fov), height, width)
    expected = None if height * width < 3 else pytest.approx(fov, abs=0.2)
    assert fitted_fov(points) == expected


def test_flat_points_tell_of_no_camera() -> None:
    points = np.zeros((8, 8, 3), np.float32) + np.array([0.5, 0.5, 2], np.float32)
    assert fitted_fov(fitted(points, 8, 8)) is None


def test_what_is_not_finite_or_not_in_front_is_unknown() -> None:
    points = POINTS.copy()
    points[0, 0], points[0, 1], points[0, 2] = np.nan, np.inf, 0
    points[0, 3, 1], points[0, 4, 2] = np.nan, -1
    read = read_pointmap(points)
    assert read[0, :5].isnan().all()
    assert read[0, 5:].isfinite().all()
    assert read[1:].isfinite().all()


def test_other_sizes_of_the_same_shape_are_brought_to_the_picture() -> None:
    assert fitted(example_pointmap(20, 30)).shape == (3, 40, 60)
    assert fitted(example_pointmap(81, 121)).shape == (3, 40, 60)
    with pytest.raises(LociError, match="60 x 60, expected the shape of the picture, 60 x 40"):
        fitted(example_pointmap(60, 60))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 2), np.float32), r"shape \[4, 4, 2\], expected \[height, width, 3\] or"),
        (np.zeros((4, 4, 4, 3), np.float32), r"shape \[4, 4, 4, 3\], expected"),
        (np.zeros((0, 4, 3), np.float32), r"shape \[0, 4, 3\], expected"),
        (np.zeros((4,), np.float32), r"shape \[4\], expected"),
        (np.zeros((4, 4, 3), complex), "complex128, expected numbers"),
        (np.full((4, 4, 3), "x"), "<U1, expected numbers"),
        (np.full((4, 4, 3), np.nan), "no point in front of the camera, expected finite ones"),
        (np.zeros((4, 4, 3)), "no point in front of the camera"),
    ],
)
def test_arrays_that_are_no_pointmaps_are_refused(array: Any, message: str) -> None:
    with pytest.raises(LociError, match=message):
        read_pointmap(array)


def test_files_that_are_no_pointmaps_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "cut.npy", POINTS)
    cut = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(cut[:200])
    (tmp_path / "text.npy").write_text("not numbers")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=POINTS, b=POINTS)
    for name in ("cut.npy", "text.npy", "empty.npy", "objects.npy", "several.npz", "nowhere.npy"):
        with pytest.raises(LociError) as caught:
            read_pointmap(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_object_needs_a_known_point() -> None:
    _, inside = example()
    points = POINTS.copy()
    points[inside] = np.nan
    with pytest.raises(LociError, match="every point inside chair.png is unknown, expected"):
        check_covers(fitted(points), torch.from_numpy(inside), "chair.png")
    points[20, 36] = POINTS[20, 36]
    check_covers(fitted(points), torch.from_numpy(inside))


@settings(max_examples=40, deadline=None)
@given(st.floats(20, 100), *[st.integers(0, 25)] * 4)
def test_the_principal_point_of_a_crop_is_fitted(
    fov: float, left: int, top: int, right: int, bottom: int
) -> None:
    height, width = 70, 80
    points = torch.from_numpy(example_pointmap(height, width, fov)).movedim(-1, 0)
    part = points[:, top : height - bottom, left : width - right]
    part = part + 0.002 * torch.randn(part.shape, generator=torch.Generator().manual_seed(top))
    rows, columns = part.shape[1:]
    across, down = fitted_principal(part)
    assert across * columns == pytest.approx(width / 2 - left, abs=0.6)
    assert down * rows == pytest.approx(height / 2 - top, abs=0.6)


def test_points_of_a_centered_picture_leave_its_principal_point_in_the_center() -> None:
    points = torch.from_numpy(POINTS).movedim(-1, 0)
    assert fitted_principal(points) == (0.5, 0.5), "to the last bit, so that nothing changes"
    assert fitted_principal(torch.zeros(3, 8, 8) + torch.tensor([0.5, 0.5, 2])[:, None, None]) == (
        0.5,
        0.5,
    )
    # Not of a pinhole camera: a distance to a wall that is known only by its sign.
    bent = points / points[2:]
    bent = torch.cat([bent[:2] + 0.3 * bent[:2].sign(), bent[2:]])[:, :, 10:]
    assert fitted_principal(bent)[0] == 0.5


def test_depths_become_points_around_the_principal_point() -> None:
    whole = read_pointmap(POINTS[:, :, 2], fov=40)
    cropped = POINTS[:, 20:, 2]
    focal = Camera.identity(40).focal((40, 60))
    fov = math.degrees(2 * math.atan(20 / focal))
    points = read_pointmap(cropped, fov=fov, principal=(10 / 40, 0.5))
    assert torch.allclose(points, whole[:, 20:], atol=1e-5)
