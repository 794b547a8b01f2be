import math

import pytest
import torch

from loci.memory.compressor import LatentEncoderConfig
from loci.memory.reckoned import (
    POSE_FEATURES,
    PoseEmbedding,
    ReckonedConfig,
    ReckonedEncoder,
    column_angles,
    mean_pose,
    memory_times,
    reckoned_rotation,
    relative_poses,
)

CONFIG = ReckonedConfig(time=1, rows=1, columns=1, heading=3, place=(1.0,))


def pose(heading: float, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([heading, x, y], dtype=torch.float64)


def test_poses_are_seen_from_the_walker() -> None:
    """Facing north at (1, 2), the point (1, 5) lies three cells ahead."""
    there = relative_poses(pose(math.pi, 1, 5)[None, None], pose(math.pi / 2, 1, 2)[None])
    assert there[0, 0].tolist() == pytest.approx([math.pi / 2, 3, 0], abs=1e-12)


def test_mean_headings_wrap() -> None:
    mean = mean_pose(torch.stack([pose(math.pi - 0.1), pose(-math.pi + 0.1, 2)])[None])
    assert abs(mean[0, 0].item()) == pytest.approx(math.pi)
    assert mean[0, 1].item() == 1
    weighted = mean_pose(torch.stack([pose(0, 0), pose(0, 4)])[None], torch.tensor([3.0, 1.0]))
    assert weighted[0, 1].item() == 1


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
    at = reckoned_rotation(CONFIG, poses, times, 1, columns)
    cos = at.cos.view(2, columns, -1)
    heading = slice(3, 6)
    assert torch.allclose(cos[0, 2, heading], cos[1, 4, heading], atol=1e-6)
    assert not torch.allclose(cos[0, 2, heading], cos[1, 2, heading], atol=1e-3)


def test_a_full_turn_changes_nothing() -> None:
    times = torch.zeros(1, 1)
    ones = [
        reckoned_rotation(CONFIG, pose(h)[None, None], times, 2, 2) for h in (0.3, 0.3 + math.tau)
    ]
    assert torch.allclose(ones[0].cos, ones[1].cos, atol=1e-6)
    assert torch.allclose(ones[0].sin, ones[1].sin, atol=1e-6)


def test_poses_stay_on_the_cpu_whatever_the_device_of_the_tokens() -> None:
    device, poses = torch.device("meta"), pose(0.3)[None, None]
    embedded = PoseEmbedding(8).to(device)(poses)
    assert (embedded.device, embedded.dtype) == (device, torch.float32)
    at = reckoned_rotation(CONFIG, poses, torch.zeros(1, 1), 2, 2, device)
    assert (at.cos.device, at.cos.dtype) == (device, torch.float32)


def test_times_never_run_out() -> None:
    times = memory_times(torch.tensor([[0.0, 8.0, 1e9]]))
    assert times[0, :2].tolist() == [-1, -2]
    assert times[0, 2] > -30


def small_encoder() -> ReckonedEncoder:
    torch.manual_seed(0)
    config = LatentEncoderConfig(
        16 + POSE_FEATURES, 24, 32, 4, blocks_per_level=1, spatial_stride=2
    )
    return ReckonedEncoder(config).eval().requires_grad_(False)


def test_codes_do_not_depend_on_where_in_the_world_they_were_made() -> None:
    encoder = small_encoder()
    latents = torch.randn(1, 16, 8, 4, 4)
    poses = torch.stack([pose(0.13 * i, 0.1 * i, -0.05 * i) for i in range(8)])[None]
    turn = 2.0
    cos, sin = math.cos(turn), math.sin(turn)
    x, y = poses[..., 1], poses[..., 2]
    moved = torch.stack([poses[..., 0] + turn, cos * x - sin * y + 40, sin * x + cos * y], dim=-1)
    codes = encoder.encode(latents, poses)
    assert codes.shape == (1, 24, 2, 2, 2)
    assert torch.allclose(codes, encoder.encode(latents, moved), atol=1e-5)
    turned = poses * torch.tensor([2.0, 1, 1])
    assert not torch.allclose(codes, encoder.encode(latents, turned), atol=1e-4)
    assert encoder.merge(torch.randn(1, 24, 4, 2, 2), poses[:, :4]).shape == (1, 24, 1, 2, 2)


def test_poses_must_be_given() -> None:
    with pytest.raises(ValueError, match="pose of every latent"):
        small_encoder().encode(torch.randn(1, 16, 8, 4, 4))
    with pytest.raises(ValueError, match="pose of every code"):
        small_encoder().merge(torch.randn(1, 24, 4, 2, 2))
