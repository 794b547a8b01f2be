import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loci.geometry.camera import Camera
from loci.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from loci.objects.placement.pose import (
    ROTATION_MEAN,
    ROTATION_STD,
    Pose,
    decode_pose,
    encode_pose,
    pose_for_camera,
    rotation_matrix,
)

codes = st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6).map(
    lambda values: torch.tensor([values])
)


def straight() -> dict[str, torch.Tensor]:
    """Latents of an object that stands unturned, of size 1, at the scene's centre."""
    wanted = torch.tensor([1.0, 0, 0, 0, 1, 0])
    code = (wanted - torch.tensor(ROTATION_MEAN)) / torch.tensor(ROTATION_STD)
    return {
        "6drotation_normalized": code[None, None],
        "translation": torch.zeros(1, 1, 3),
        "scale": torch.zeros(1, 1, 3),
        "translation_scale": torch.zeros(1, 1, 1),
        "shape": torch.zeros(1, 8, 4),
    }


@given(codes)
def test_rotations_survive_the_way_through_a_quaternion(code: torch.Tensor) -> None:
    if torch.linalg.cross(code[:, :3], code[:, 3:]).norm() < 1e-2:
        return
    matrix = rotation_matrix(code)
    assert torch.allclose(matrix @ matrix.mT, torch.eye(3), atol=1e-4)
    quaternion = matrix_to_quaternion(matrix)
    assert quaternion[0, 0] >= 0
    assert torch.allclose(quaternion_to_matrix(quaternion), matrix, atol=1e-4)


def test_half_turns_have_a_quaternion() -> None:
    for axis in range(3):
        matrix = -torch.eye(3)
        matrix[axis, axis] = 1
        expected = torch.zeros(4)
        expected[axis + 1] = 1
        assert torch.allclose(matrix_to_quaternion(matrix[None])[0], expected)


def test_trap_the_pose_turns_row_vectors() -> None:
    """A quarter turn about z takes x to y for columns; published poses multiply rows: x to -y."""
    half = 0.5**0.5
    pose = Pose(
        torch.tensor([[half, 0, 0, half]]), torch.tensor([[1.0, 2, 3]]), torch.full((1, 3), 2.0)
    )
    placed = pose.place(torch.tensor([[[1.0, 0, 0]]]))
    assert torch.allclose(placed[0, 0], torch.tensor([1.0, 2 - 2, 3]), atol=1e-6)


def test_the_scene_scales_and_shifts_the_object() -> None:
    scale, shift = torch.full((1, 3), 3.0), torch.tensor([[1.0, 2, 4]])
    pose = decode_pose(straight(), scale, shift)
    assert torch.allclose(pose.rotation, torch.tensor([[1.0, 0, 0, 0]]), atol=1e-6)
    assert torch.allclose(pose.scale, scale)
    assert torch.equal(pose.translation, shift)


def test_an_object_drawn_at_half_size_is_placed_at_twice_the_scale() -> None:
    ones = torch.ones(1, 3)
    plain, halved = (decode_pose(straight(), ones, ones, factor) for factor in (1, 2))
    assert torch.equal(halved.scale, 2 * plain.scale)
    assert torch.equal(halved.translation, plain.translation)


def test_scale_is_the_same_on_all_axes() -> None:
    latents = straight() | {"scale": torch.tensor([[[1.0, 2.0, 4.0]]]).log()}
    pose = decode_pose(latents, torch.ones(1, 3), torch.zeros(1, 3))
    assert torch.allclose(pose.scale, torch.full((1, 3), 7 / 3))


@given(codes, st.floats(0.01, 100), st.floats(0.1, 10))
def test_encoded_poses_decode_to_themselves(code: torch.Tensor, size: float, scene: float) -> None:
    if torch.linalg.cross(code[:, :3], code[:, 3:]).norm() < 1e-2:
        return
    matrix, translation = rotation_matrix(code), code[:, 2:5]
    scale, units = torch.full((1, 3), size), torch.full((1, 3), scene)
    shift = code[:, :3]
    pose = decode_pose(encode_pose(matrix, translation, scale, units, shift), units, shift)
    torch.testing.assert_close(quaternion_to_matrix(pose.rotation), matrix, atol=1e-4, rtol=0)
    torch.testing.assert_close(pose.translation, translation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pose.scale, scale, atol=0, rtol=1e-4)


def test_unknown_conventions_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown pose convention Metric"):
        decode_pose(straight(), torch.ones(1, 3), torch.ones(1, 3), convention="Metric")  # type: ignore[arg-type]


@given(st.floats(25, 75), st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(0.5, 2))
def test_another_camera_sees_the_object_at_the_same_pixel_and_from_the_same_side(
    fov: float, across: float, down: float, aspect: float
) -> None:
    canonical = Pose(
        torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.2, -0.1, 1.0]]), torch.ones(1, 3)
    )
    size = (round(400 * aspect), 400)
    aspect = size[0] / size[1]
    found = pose_for_camera(canonical, fov, (across, down), aspect)
    camera = Camera.identity(fov, (across, down))
    seen = camera.project(found.translation, size)[0, :2]
    expected = Camera.identity(50).project(canonical.translation, size)[0, :2]
    assert torch.allclose(seen, expected, atol=0.05)
    # From the camera's direction in the object's frame.
    before, after = (
        pose.translation @ quaternion_to_matrix(pose.rotation)[0].T for pose in (canonical, found)
    )
    cosine = torch.nn.functional.cosine_similarity(before, after)
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    assert float(found.scale[0, 0] / found.translation[0, 2]) == pytest.approx(
        math.tan(math.radians(fov) / 2) / math.tan(math.radians(25)), rel=1e-4
    )
