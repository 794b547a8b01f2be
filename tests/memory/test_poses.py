import math

import pytest
import torch

from loci.memory.poses import mean_pose, panorama_pose, relative_poses, view_pose, with_spread


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


def test_the_arc_of_a_merged_code_holds_those_of_its_parts() -> None:
    codes = torch.stack([pose(heading, 1) for heading in (0.2, -0.2, 0.2, -0.2)])[None]
    codes = with_spread(codes) + torch.tensor([0, 0, 0, 0.5], dtype=torch.float64)
    assert panorama_pose(codes)[0].tolist() == pytest.approx([0, 1, 0, 0.4 + 0.5])
    spin = torch.stack([pose(k * math.pi / 2) for k in range(4)])[None]
    assert math.pi <= panorama_pose(with_spread(spin))[0, 3] <= math.tau
    assert panorama_pose(with_spread(spin) * 1e3)[0, 3] <= math.tau


def test_a_view_has_no_spread() -> None:
    turning = torch.stack([pose(0.1 * k, k) for k in range(4)])[None]
    assert view_pose(turning)[0].tolist() == pytest.approx([0.15, 1.5, 0, 0])


def test_spread_does_not_depend_on_where_one_looks_from() -> None:
    codes = torch.tensor([[[1.0, 2, 3, 0.7]]], dtype=torch.float64)
    assert relative_poses(codes, pose(0.4, 5, 6)[None])[0, 0, 3] == 0.7
