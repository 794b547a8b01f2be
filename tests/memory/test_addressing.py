import math

import pytest
import torch

from loci.memory.addressing import (
    POSE_FEATURES,
    PanoramaMerge,
    PosedHPMCEncoder,
    PoseEmbedding,
    PoseRotaryConfig,
    column_angles,
    memory_times,
    panorama_angles,
    pose_rotation,
)
from loci.memory.hpmc import HPMCConfig
from loci.memory.poses import panorama_pose, with_spread

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


SMALL = PoseRotaryConfig(time=1, rows=1, columns=1, heading=3, place=(0.4, 1.6, 3.2))


def pose_at(heading: float, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([heading, x, y], dtype=torch.float64)


def small_encoder() -> PosedHPMCEncoder:
    torch.manual_seed(0)
    config = HPMCConfig(16 + POSE_FEATURES, 24, 32, 4, blocks_per_level=1, spatial_stride=2)
    return PosedHPMCEncoder(config, SMALL).eval().requires_grad_(False)


def test_tokens_do_not_depend_on_where_in_the_world_they_were_made() -> None:
    encoder = small_encoder()
    latents = torch.randn(1, 16, 8, 4, 4)
    poses = torch.stack([pose_at(0.13 * i, 0.1 * i, -0.05 * i) for i in range(8)])[None]
    turn = 2.0
    cos, sin = math.cos(turn), math.sin(turn)
    x, y = poses[..., 1], poses[..., 2]
    moved = torch.stack([poses[..., 0] + turn, cos * x - sin * y + 40, sin * x + cos * y], dim=-1)
    tokens = encoder.encode(latents, poses)
    assert tokens.shape == (1, 24, 2, 2, 2)
    assert torch.allclose(tokens, encoder.encode(latents, moved), atol=1e-5)
    turned = poses * torch.tensor([2.0, 1, 1])
    assert not torch.allclose(tokens, encoder.encode(latents, turned), atol=1e-4)


def test_merged_tokens_do_not_depend_on_where_in_the_world_they_were_made() -> None:
    encoder = small_encoder()
    tokens = torch.randn(1, 24, 4, 2, 2)
    poses = with_spread(torch.stack([pose_at(0.4 * i, 0.3 * i, -0.2 * i) for i in range(4)])[None])
    moved = poses + torch.tensor([0, 40, -7, 0], dtype=torch.float64)
    merged = encoder.merge(tokens, poses)
    assert merged.shape == (1, 24, 1, 2, 2)
    assert torch.allclose(merged, encoder.merge(tokens, moved), atol=1e-5)
    assert not torch.allclose(merged, encoder.merge(tokens, poses * 2), atol=1e-4)
    with pytest.raises(ValueError, match="takes 4 sets"):
        encoder.merge(tokens[:, :, :3], poses[:, :3])


def test_a_panorama_holds_what_its_parts_saw_before_it_has_learned_anything() -> None:
    """Four views of a full turn, each with its own mark: every column shows what lies there."""
    torch.manual_seed(0)
    merge = PanoramaMerge(24, SMALL)
    turns = with_spread(torch.stack([pose_at(k * math.pi / 2) for k in range(4)])[None])
    own = panorama_pose(turns)
    arc = panorama_angles(own[:, None, 3], 4, SMALL.fov)[0, 0]
    seen = ((own[0, 0] - arc) / (math.pi / 2)).round().long() % 4
    marks = torch.randn(16, 24, 4, 1, 1)
    made = merge(marks.expand(-1, -1, -1, 3, 4), turns.expand(16, -1, -1))
    for row in range(3):
        assert (made[:, :, 0, row] - marks[:, :, :, 0, 0][:, :, seen]).square().mean() < 0.05


def test_equal_views_are_averaged_column_by_column() -> None:
    merge = PanoramaMerge(24, SMALL)
    still = with_spread(torch.zeros(1, 4, 3, dtype=torch.float64))
    tokens = torch.randn(1, 24, 4, 2, 4)
    made, mean = merge(tokens, still)[:, :, 0], tokens.mean(dim=2)
    alike = torch.nn.functional.cosine_similarity(made, mean, dim=1)
    assert alike.mean() > 0.9
    shifted = torch.nn.functional.cosine_similarity(made, mean.roll(1, -1), dim=1)
    assert shifted.mean() < 0.6


@torch.enable_grad()
def test_a_panorama_learns_more_than_it_begins_with() -> None:
    torch.manual_seed(0)
    merge = PanoramaMerge(24, SMALL)
    still = with_spread(torch.zeros(1, 4, 3, dtype=torch.float64)).expand(16, -1, -1)
    optimizer = torch.optim.Adam(merge.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        marks = torch.randn(16, 24, 1, 1, 1).expand(-1, -1, 4, 2, 4)
        made = merge(marks, still)
        loss = (made + marks[:, :, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3, "it begins as the views themselves, and is to give their opposite"
    assert losses[-1] < 0.5


def test_poses_must_be_given() -> None:
    with pytest.raises(ValueError, match="pose of every latent"):
        small_encoder().encode(torch.randn(1, 16, 8, 4, 4))
    with pytest.raises(ValueError, match="pose of every span"):
        small_encoder().merge(torch.randn(1, 24, 4, 2, 2))
