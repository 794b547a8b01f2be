import math

import pytest
import torch

from loci.memory.hpmc import HPMCConfig
from loci.memory.panorama_merge import POSE_FEATURES, PanoramaMerge, PoseConditionedEncoder
from loci.memory.pose_rotary import PoseRotaryConfig, panorama_angles
from loci.memory.poses import panorama_pose, with_spread

SMALL = PoseRotaryConfig(time=1, rows=1, columns=1, heading=3, place=(0.4, 1.6, 3.2))


def pose_at(heading: float, x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([heading, x, y], dtype=torch.float64)


def small_encoder() -> PoseConditionedEncoder:
    torch.manual_seed(0)
    config = HPMCConfig(16 + POSE_FEATURES, 24, 32, 4, blocks_per_level=1, spatial_stride=2)
    return PoseConditionedEncoder(config, SMALL).eval().requires_grad_(False)


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
