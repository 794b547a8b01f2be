import math

import pytest
import torch

from loci.memory.pose_rotary import (
    PoseEmbedding,
    PoseRotaryConfig,
    column_angles,
    memory_times,
    panorama_angles,
    pose_rotation,
)

CONFIG = PoseRotaryConfig(time=1, rows=1, columns=1, heading=3, place=(1.0,))


def pose(heading: float, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([heading, x, y], dtype=torch.float64)


def test_the_outer_columns_look_along_the_edges_of_the_view() -> None:
    angles = column_angles(1000, 90.0)
    assert angles[-1].item() == pytest.approx(math.pi / 4, abs=1e-3)
    assert torch.allclose(angles, -angles.flip(0))


def test_a_token_is_found_by_where_it_looks() -> None:
    """A column seen after turning by its angle has the same heading pairs as the centre had."""
    columns = 5
    angle = column_angles(columns, CONFIG.fov)[4]
    times = torch.zeros(1, 2)
    poses = torch.stack([pose(0), pose(angle.item())])[None]
    at = pose_rotation(CONFIG, poses, times, 1, columns)
    cos = at.cos.view(2, columns, -1)
    heading = slice(3, 6)
    assert torch.allclose(cos[0, 2, heading], cos[1, 4, heading], atol=1e-6)
    assert not torch.allclose(cos[0, 2, heading], cos[1, 2, heading], atol=1e-3)


def test_a_full_turn_changes_nothing() -> None:
    times = torch.zeros(1, 1)
    ones = [pose_rotation(CONFIG, pose(h)[None, None], times, 2, 2) for h in (0.3, 0.3 + math.tau)]
    assert torch.allclose(ones[0].cos, ones[1].cos, atol=1e-6)
    assert torch.allclose(ones[0].sin, ones[1].sin, atol=1e-6)


def test_poses_stay_on_the_cpu_whatever_the_device_of_the_tokens() -> None:
    device, poses = torch.device("meta"), pose(0.3)[None, None]
    embedded = PoseEmbedding(8).to(device)(poses)
    assert (embedded.device, embedded.dtype) == (device, torch.float32)
    at = pose_rotation(CONFIG, poses, torch.zeros(1, 1), 2, 2, device)
    assert (at.cos.device, at.cos.dtype) == (device, torch.float32)


def test_times_never_run_out() -> None:
    times = memory_times(torch.tensor([[0.0, 8.0, 1e9]]))
    assert times[0, :2].tolist() == [-1, -2]
    assert times[0, 2] > -30


def test_a_panorama_divides_all_that_was_seen() -> None:
    spread = torch.tensor([[0.0, math.pi / 2, 7.0]])
    camera, half, full = panorama_angles(spread, 4, 90.0)[0]
    assert torch.equal(camera, column_angles(4, 90.0))
    assert torch.allclose(half / math.pi, torch.tensor([-3, -1, 1, 3]).double() / 8)
    assert torch.allclose(full / math.pi, torch.tensor([-3, -1, 1, 3]).double() / 4)


def test_a_panorama_is_found_where_its_columns_look() -> None:
    """Column 3 of a full circle looks 135 degrees to the right: as the middle of a view there."""
    wide = torch.tensor([[[0.3, 0, 0, math.tau]]], dtype=torch.float64)
    there = pose_rotation(CONFIG, wide, torch.zeros(1, 1), 1, 4)
    one = pose(0.3 - math.radians(135))[None, None]
    here = pose_rotation(CONFIG, one, torch.zeros(1, 1), 1, 1)
    heading = slice(3, 6)
    assert torch.allclose(there.cos[0, 3, heading], here.cos[0, 0, heading], atol=1e-6)
    assert torch.allclose(there.sin[0, 3, heading], here.sin[0, 0, heading], atol=1e-6)


def test_an_embedding_sees_displacements_of_up_to_six_cells() -> None:
    embedding, seen = PoseEmbedding(8), []
    embedding.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    embedding(torch.tensor([[0.0, 4.0, -5.0], [0.0, 20.0, -7.0]]))
    assert seen[0][:, 8:10].tolist() == [[2.0, -2.5], [3.0, -3.0]]
