import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from loci.geometry.camera import Camera
from loci.geometry.rotations import degrees_apart, matrix_to_quaternion, quaternion_to_matrix
from loci.objects.inputs.observation import Observation
from loci.objects.placement.pose import Pose
from loci.objects.placement.refinement import (
    RefinedPose,
    RefinementConfig,
    comparison_grid,
    refine_pose,
)

SIDE, FOV, FINE = 96, 50.0, 4
DISTANCE, SIZE = 2.0, 0.9


def chair() -> Tensor:
    """Voxels of a grid of 32 without any symmetry but left and right."""
    grid = torch.zeros(32, 32, 32, dtype=torch.bool)
    grid[6:26, 4:28, 14:17] = True
    grid[6:26, 25:28, 14:31] = True
    for x in (6, 23):
        for y in (4, 25):
            grid[x : x + 3, y : y + 3, 1:14] = True
    return torch.argwhere(grid)


def turn(azimuth: float) -> Tensor:
    cos, sin = math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth))
    return torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]])


def true_pose(azimuth: float = 35.0) -> Pose:
    rotation = Camera.orbit(azimuth, 20, 1, FOV).rotation[None]
    translation = torch.tensor([[0.1, -0.05, DISTANCE]])
    return Pose(matrix_to_quaternion(rotation), translation, torch.full((1, 3), SIZE))


def observed(pose: Pose, with_pointmap: bool) -> Observation:
    """The chair as points, many to a pixel. A voxel's surface is in the middle of it on average, so
    they fill the inner half of each voxel."""
    steps = (torch.arange(FINE) + 0.5) / FINE / 2 + 0.25
    points = chair()[:, None] + torch.cartesian_prod(steps, steps, steps)
    placed = pose.place((points.flatten(0, 1) / 32 - 0.5)[None])[0]
    at = Camera.identity(FOV).project(placed, SIDE)
    cell = at[:, 1].long() * SIDE + at[:, 0].long()
    depth = torch.full((SIDE * SIDE,), torch.inf).scatter_reduce_(0, cell, at[:, 2], "amin")
    depth = depth.view(SIDE, SIDE)
    mask = depth.isfinite()
    points = Camera.identity(FOV).unproject(depth.masked_fill(~mask, torch.nan)).movedim(-1, 0)
    return (
        Observation(mask, points, FOV) if with_pointmap else Observation(mask, None, FOV, DISTANCE)
    )


def error(found: Pose, truth: Pose) -> tuple[float, float, float]:
    """Degrees, factor of the size, and distance in sizes."""
    apart = degrees_apart(
        quaternion_to_matrix(found.rotation), quaternion_to_matrix(truth.rotation)
    )
    factor = float((found.scale[0, 0] / truth.scale[0, 0]).log().abs().exp())
    return float(apart), factor, float((found.translation - truth.translation).norm() / SIZE)


@pytest.mark.parametrize("with_pointmap", [False, True])
@pytest.mark.parametrize("wrong", [50.0, 90.0, 180.0])
def test_a_wrong_front_is_put_right(wrong: float, with_pointmap: bool) -> None:
    truth = true_pose()
    rotation = turn(wrong) @ quaternion_to_matrix(truth.rotation)
    # Without a pointmap the distance has to be agreed on.
    moved = truth.translation * 3.0
    given = Pose(matrix_to_quaternion(rotation), moved, truth.scale * 1.3)
    found = refine_pose(given, chair(), 32, observed(truth, with_pointmap)).pose
    degrees, factor, place = error(found, truth)
    assert degrees < 10
    assert factor < 1.06
    assert place < 0.1


def test_a_flow_that_is_far_off_is_fetched_back() -> None:
    truth = true_pose()
    lost = truth._replace(translation=torch.tensor([[4.0, -3.0, -1.0]]), scale=truth.scale * 9)
    for with_pointmap in (False, True):
        degrees, factor, place = error(
            refine_pose(lost, chair(), 32, observed(truth, with_pointmap)).pose, truth
        )
        assert degrees < 10
        assert factor < 1.06
        assert place < 0.1


def test_a_right_pose_stays_as_good_as_it_is() -> None:
    truth = true_pose(-60)
    found = refine_pose(truth, chair(), 32, observed(truth, True)).pose
    degrees, factor, place = error(found, truth)
    assert degrees < 6
    assert factor < 1.04
    assert place < 0.06


def test_a_mask_that_is_cut_off_tells_nothing() -> None:
    truth, given = true_pose(), true_pose(120)
    cut = observed(truth, False)
    cut.mask[-1, SIDE // 2] = True
    assert refine_pose(given, chair(), 32, cut) == (given, -math.inf)
    behind = given._replace(translation=-given.translation)
    unknown = observed(truth, False)._replace(distance=None)
    assert refine_pose(behind, chair(), 32, unknown).pose is behind
    assert refine_pose(given, chair()[:0], 32, observed(truth, False)).pose is given


def test_a_single_voxel_has_a_pose_too() -> None:
    for with_pointmap in (False, True):
        found = refine_pose(true_pose(), chair()[:1], 32, observed(true_pose(), with_pointmap)).pose
        assert all(part.isfinite().all() for part in found)


def test_the_true_shape_is_marked_above_another() -> None:
    truth, rng = true_pose(), torch.Generator().manual_seed(0)
    other = torch.randint(32, (len(chair()), 3), generator=rng)
    for with_pointmap in (False, True):
        shown = observed(truth, with_pointmap)
        right, wrong = (refine_pose(truth, shape, 32, shown).score for shape in (chair(), other))
        assert 1 >= right > wrong + 0.1


def test_points_that_are_not_known_leave_the_mask() -> None:
    truth = true_pose()
    known = observed(truth, True)
    assert known.pointmap is not None
    nowhere = Observation(known.mask, torch.full_like(known.pointmap, torch.nan), FOV, DISTANCE)
    given = Pose(matrix_to_quaternion(turn(90) @ quaternion_to_matrix(truth.rotation)), *truth[1:])
    alone = refine_pose(given, chair(), 32, observed(truth, False)).pose
    found = refine_pose(given, chair(), 32, nowhere).pose
    assert torch.equal(found.rotation, alone.rotation)
    assert torch.equal(found.translation, alone.translation)


def test_cells_are_the_mask_whatever_its_size() -> None:
    for size in (3, 20, 90):
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        mask[4 : 4 + size, 2 : 2 + size] = True
        cells = comparison_grid(Observation(mask, None, FOV), 32)
        assert cells.inside.float().mean() == pytest.approx(1 / 1.25**2, abs=0.08)
        assert cells.depth.isnan().all()
        focal = Camera.identity(FOV).focal(SIDE)
        assert float(cells.high[0] - cells.low[0]) == pytest.approx(size / focal, rel=1e-4)


def test_one_turn_and_no_tilt_only_fits() -> None:
    truth = true_pose()
    given = truth._replace(scale=truth.scale * 1.4)
    found = refine_pose(
        given,
        chair(),
        32,
        observed(truth, True),
        RefinementConfig(turns=1, tilts=(0.0,), halvings=0),
    ).pose
    assert torch.allclose(found.rotation, given.rotation, atol=1e-5)
    assert error(found, truth)[1] < 1.05


def test_the_searched_pose_must_gain_more_than_the_minimum() -> None:
    truth = true_pose()
    rotation = turn(90) @ quaternion_to_matrix(truth.rotation)
    given = truth._replace(rotation=matrix_to_quaternion(rotation))
    observation = observed(truth, True)

    def refined(min_gain: float) -> RefinedPose:
        return refine_pose(given, chair(), 32, observation, RefinementConfig(min_gain=min_gain))

    eager, reluctant = refined(0.0), refined(2.0)
    gain = eager.score - reluctant.score
    assert error(eager.pose, truth)[0] < 10
    assert error(reluctant.pose, given)[0] < 0.1, "moved and scaled, but not turned"
    assert gain > 0.1
    assert torch.equal(refined(gain - 1e-3).pose.rotation, eager.pose.rotation)
    assert torch.equal(refined(gain + 1e-3).pose.rotation, reluctant.pose.rotation)


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(st.booleans(), *[st.integers(0, 12)] * 4)
def test_cropping_does_not_move_the_object(
    with_pointmap: bool, left: int, top: int, right: int, bottom: int
) -> None:
    """By more than a pixel, nor turn it: the principal point tells where the crop lies."""
    truth = true_pose()
    whole = observed(truth, with_pointmap)
    part = (slice(top, SIDE - bottom), slice(left, SIDE - right))
    height, width = SIDE - top - bottom, SIDE - left - right
    focal = Camera.identity(FOV).focal(SIDE)
    cropped = whole._replace(
        mask=whole.mask[part],
        pointmap=None if whole.pointmap is None else whole.pointmap[:, *part],
        fov=math.degrees(2 * math.atan(width / 2 / focal)),
        principal=((SIDE / 2 - left) / width, (SIDE / 2 - top) / height),
    )
    given = truth._replace(translation=truth.translation * 1.5, scale=truth.scale * 1.2)
    expected = refine_pose(given, chair(), 32, whole).pose
    found = refine_pose(given, chair(), 32, cropped).pose
    camera = Camera.identity(FOV)
    moved = camera.project(found.translation, SIDE) - camera.project(expected.translation, SIDE)
    assert moved[0, :2].norm() < 1
    assert error(found, expected)[0] < 4
    assert error(found, expected)[1] < 1.02
