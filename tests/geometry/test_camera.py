"""The camera convention against pictures one can imagine, and against the others' definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry.camera import OPENCV, Camera, flip_axes

ORBITS = st.builds(
    Camera.orbit,
    st.floats(-180, 180),
    st.floats(-80, 80),
    st.floats(0.5, 4),
    st.floats(20, 90),
    st.tuples(*[st.floats(-0.5, 0.5)] * 3),
)


def test_from_the_front_right_is_x_and_up_is_z() -> None:
    camera = Camera.orbit(0, 0, 2, 90)
    assert torch.allclose(camera.eye, torch.tensor([0.0, -2, 0]), atol=1e-6)
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0.5], [0, 1, 0]])
    # 90 degrees and 40 pixels across: the focal length is 20.
    seen = [[20, 15, 2], [30, 15, 2], [20, 10, 2], [20, 15, 3]]
    assert torch.allclose(camera.project(points, (30, 40)), torch.tensor(seen).float(), atol=1e-5)
    assert torch.allclose(camera.view(points[1]), torch.tensor([-1.0, 0, 2]), atol=1e-6)


def test_an_orbit_goes_to_the_right_side_and_above() -> None:
    assert torch.allclose(Camera.orbit(90, 0, 2, 40).eye, torch.tensor([2.0, 0, 0]), atol=1e-6)
    assert Camera.orbit(0, 30, 2, 40).eye[2] == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(ORBITS, st.integers(0, 1000))
def test_opencv_projects_to_the_same_pixels(camera: Camera, seed: int) -> None:
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed)) * 0.2
    size = (24, 32)
    extrinsics = camera.to_opencv()
    seen = points @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    pixels = seen @ camera.intrinsics(size).T
    ours = camera.project(points, size)
    assert torch.allclose(pixels[:, :2] / pixels[:, 2:], ours[:, :2], rtol=1e-3, atol=1e-2)
    assert torch.allclose(flip_axes(seen, OPENCV), camera.view(points), atol=1e-5)


def test_a_pose_seen_from_the_object() -> None:
    turned = Camera.orbit(40, 20, 1, 50)
    place, points = torch.tensor([0.3, -0.2, 4.0]), torch.rand(6, 3) - 0.5
    camera = Camera.from_pose(turned.rotation, place, torch.full((3,), 2.0), 50)
    in_camera = (points * 2) @ turned.rotation + place
    assert torch.allclose(camera.view(points) * 2, in_camera, atol=1e-5)


def test_a_depth_map_becomes_the_points_that_were_seen() -> None:
    camera = Camera.identity(60)
    depth = torch.rand(6, 8) + 1
    points = camera.unproject(depth)
    pixels = camera.project(points, (6, 8))
    y, x = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    assert torch.allclose(pixels, torch.stack([x, y, depth], dim=-1), atol=1e-4)


def test_what_is_no_camera_is_refused() -> None:
    with pytest.raises(LociError, match="field of view of 180"):
        Camera.identity(180)


@settings(max_examples=30, deadline=None)
@given(ORBITS, *[st.integers(0, 9)] * 4)
def test_a_crop_is_seen_by_a_camera_with_another_principal_point(
    camera: Camera, left: int, top: int, right: int, bottom: int
) -> None:
    height, width = 24, 32
    size = (height - top - bottom, width - left - right)
    cropped = cropped_camera(camera, (height, width), (left, top), size)
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(left)) * 0.2
    offset = torch.tensor([left, top, 0.0])
    whole = camera.project(points, (height, width))
    assert torch.allclose(cropped.project(points, size), whole - offset, atol=1e-3)
    matrix = camera.intrinsics((height, width))
    assert torch.allclose(matrix[:2, 2] - offset[:2], cropped.intrinsics(size)[:2, 2], atol=1e-4)
    depth = torch.rand(height, width) + 1
    part = (slice(top, height - bottom), slice(left, width - right))
    points = Camera.identity(camera.fov).unproject(depth)[part]
    back = Camera.identity(cropped.fov, cropped.principal).unproject(depth[part])
    assert torch.allclose(points, back, atol=1e-4)


def cropped_camera(
    camera: Camera, size: tuple[int, int], corner: tuple[int, int], cropped: tuple[int, int]
) -> Camera:
    """The camera of a part of its picture: left and top, height and width."""
    (height, width), (left, top) = cropped, corner
    fov = math.degrees(2 * math.atan(width / 2 / camera.focal(size)))
    principal = ((size[1] / 2 - left) / width, (size[0] / 2 - top) / height)
    return Camera(camera.rotation, camera.translation, fov, principal)
