"""Objects on one plane, each at distance 1, find back to their distances."""

import math

import pytest
import torch
from torch import Tensor

from loci.geometry.rotations import matrix_to_quaternion
from loci.objects.placement.ground import ground_factors, moved_away
from loci.objects.placement.pose import Pose

# The lower half of the space is empty: what counts is where points are, not where the space ends.
POINTS = torch.cartesian_prod(*(torch.linspace(-0.3, 0.5, 6),) * 3)


def standing(across: float, away: float, size: float, turn: float, height: float = 0.0) -> Pose:
    """On a floor 1.5 below a camera that looks 20 degrees down; `height` above the floor."""
    cos, sin = math.cos(turn), math.sin(turn)
    own = torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    # From a frame with x right, y away, z up to the camera's: x left, y up, z forward.
    down, level = math.sin(math.radians(20)), math.cos(math.radians(20))
    to_camera = torch.tensor([[-1.0, 0.0, 0.0], [0.0, down, level], [0.0, level, -down]])
    center = torch.tensor([across, away, height - 1.5 + 0.3 * size])
    rotation = own @ to_camera
    quaternion = matrix_to_quaternion(rotation[None])
    return Pose(quaternion, (center @ to_camera)[None], torch.full((1, 3), size))


def canonical(pose: Pose) -> Pose:
    """As a picture alone tells it: the centre at depth 1."""
    return moved_away(pose, 1 / float(pose.translation[0, 2]))


def test_distances_are_those_of_the_floor() -> None:
    true = [standing(0.3, 3, 1.0, 0.2), standing(-1, 5, 0.4, 1.4), standing(1, 4, 1.6, 3.0)]
    factors = ground_factors([canonical(pose) for pose in true], [POINTS] * 3)
    expected = torch.stack([pose.translation[0, 2] for pose in true])
    torch.testing.assert_close(factors, expected / expected[0], rtol=1e-3, atol=0)


def test_one_on_a_table_is_taken_for_a_nearer_one_on_the_floor() -> None:
    """Which is what the assumption says, and looks the same."""
    true = [standing(0, 3, 1.0, 0.2), standing(0, 3, 0.3, 0.2, height=0.5)]
    factors = ground_factors([canonical(pose) for pose in true], [POINTS] * 2)
    assert float(factors[1]) == pytest.approx(
        float(true[1].translation[0, 2] / true[0].translation[0, 2]) * 1.5 / 1.0, rel=0.01
    )


def test_what_hangs_above_the_horizon_does_not_stand() -> None:
    true = [standing(0, 3, 0.4, 0.0, height=1.6), standing(0, 3, 1, 0.0), standing(1, 4, 1, 0.0)]
    factors = ground_factors([canonical(pose) for pose in true], [POINTS] * 3)
    assert factors.isnan().tolist() == [True, False, False]
    assert factors[1] == 1, "the first that stands"
    assert ground_factors([canonical(true[0])], [POINTS]).isnan().all()


def test_a_few_stray_points_below_do_not_count() -> None:
    true = [standing(0, 3, 1.0, 0.2), standing(-1, 5, 1.0, 1.4)]
    stray: Tensor = torch.cat([POINTS, torch.tensor([[0.0, 0.0, -0.5]])])
    clean = ground_factors([canonical(pose) for pose in true], [POINTS, POINTS])
    found = ground_factors([canonical(pose) for pose in true], [POINTS, stray])
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=0)
