"""Objects in a scene look as they look from their own frames."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.placing import merge_gaussians, merge_meshes, place_gaussians, place_mesh
from loci.geometry.rotations import (
    matrix_to_quaternion,
    quaternion_invert,
    quaternion_multiply,
    quaternion_to_matrix,
)


def some(seed: int, count: int = 30) -> Gaussians:
    parts = torch.randn(count, 14, generator=torch.Generator().manual_seed(seed))
    position, color, scale, turn, opacity = parts.split([3, 3, 3, 4, 1], dim=1)
    scales = 0.01 + 0.15 * torch.sigmoid(2 * scale)
    return Gaussians(position / 6, color, scales, turn, opacity[:, 0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 3))
def test_placed_gaussians_look_as_from_their_own_frame(seed: int, size: float) -> None:
    """conj(q) q_own: with q q_own instead, the elongated Gaussians would lie otherwise."""
    gaussians = some(seed)
    rotation = F.normalize(torch.randn(4, generator=torch.Generator().manual_seed(seed)), dim=0)
    translation, scale = torch.tensor([0.1, -0.2, 2.5]) * size, torch.full((3,), size)
    placed = place_gaussians(gaussians, rotation, translation, scale)
    matrix = quaternion_to_matrix(rotation[None])[0]
    own = render_gaussians(gaussians, Camera.from_pose(matrix, translation, size, 50), 24)
    scene = render_gaussians(placed, Camera.identity(50), 24)
    assert torch.allclose(scene.color, own.color, atol=5e-3)
    assert torch.allclose(scene.depth, own.depth * size, atol=2e-2 * size)


def test_placed_scales_have_a_floor() -> None:
    gaussians = some(0)
    turn, scale = torch.tensor([1.0, 0, 0, 0]), torch.full((3,), 2.0)
    placed = place_gaussians(gaussians, turn, torch.zeros(3), scale, smallest=0.05)
    assert torch.allclose(placed.scales, (gaussians.scales * 2).clamp(min=0.11))
    with pytest.raises(LociError, match="same along all axes"):
        place_gaussians(gaussians, turn, torch.zeros(3), torch.tensor([1.0, 2, 1]))


def test_quaternions_multiply_as_their_matrices() -> None:
    first, second = F.normalize(
        torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    together = quaternion_to_matrix(first) @ quaternion_to_matrix(second)
    assert torch.allclose(
        quaternion_to_matrix(quaternion_multiply(first, second)), together, atol=1e-6
    )
    assert torch.allclose(
        quaternion_to_matrix(quaternion_invert(first)),
        quaternion_to_matrix(first).transpose(1, 2),
        atol=1e-6,
    )
    assert torch.allclose(quaternion_to_matrix(matrix_to_quaternion(together)), together, atol=1e-5)


def test_merging_keeps_parts_behind_each_other() -> None:
    first, second = some(1, 3), some(2, 4)
    scene = merge_gaussians([first, second])
    assert torch.equal(scene.scales, torch.cat([first.scales, second.scales]))
    places, faces = torch.rand(3, 3), torch.tensor([[0, 1, 2]])
    colored, plain = Mesh(places, faces, places), Mesh(places + 1, faces)
    both = merge_meshes([colored, colored, plain])
    assert both.faces.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert both.colors is None
    colored = merge_meshes([colored, colored]).colors
    assert colored is not None
    assert torch.equal(colored, torch.cat([places, places]))
    for merge in (merge_gaussians, merge_meshes):
        with pytest.raises(LociError, match="at least one"):
            merge([])


def test_a_placed_mesh_keeps_its_faces_and_handedness() -> None:
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.rand(3, 3))
    turn = F.normalize(torch.tensor([1.0, 1, 0, 0]), dim=0)
    placed = place_mesh(mesh, turn, torch.ones(3), torch.full((3,), 2.0))
    # The rows' product with R turns by the quaternion's inverse: -90 degrees about x.
    assert torch.allclose(placed.vertices[1], torch.tensor([1.0, 1, -1]), atol=1e-6)
    assert torch.equal(placed.faces, mesh.faces)
    assert placed.colors is mesh.colors
