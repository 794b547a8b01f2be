import numpy as np
import pytest

from loci.data.objects.cameras import RenderCamera, look_along, sphere_directions
from loci.data.objects.surface import (
    GRID,
    STEPS,
    OrthographicView,
    SurfaceSamples,
    occupied,
    pack,
    signed_distance,
    uniform_samples,
    unpack,
    visibly_empty,
)

RADIUS = 0.4
PIXELS = 160


def ball_side(direction: np.ndarray) -> OrthographicView:
    """A ball as it is seen with parallel rays from outside."""
    camera = RenderCamera(look_along(-direction), np.array([0.0, 0.0, 2.0]), reach=0.9)
    axis = camera.reach - (np.arange(PIXELS) + 0.5) * (2 * camera.reach / PIXELS)
    height = RADIUS**2 - axis[:, None] ** 2 - axis[None] ** 2
    depth = np.where(height > 0, 2 - np.sqrt(np.maximum(height, 0)), np.inf)
    return OrthographicView(camera, depth.astype(np.float32))


@pytest.fixture(scope="module")
def sides() -> list[OrthographicView]:
    return [ball_side(direction) for direction in sphere_directions(24)]


def ball(count: int = 80_000) -> SurfaceSamples:
    normals = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return SurfaceSamples(RADIUS * normals, normals, 0.5 + 0.5 * normals)


def test_points_fall_into_voxels_and_bits_come_back() -> None:
    grid = occupied(np.array([[-0.49, 0.0, 0.49], [0.49, 0.0, 0.7]], np.float32), 4)
    assert np.argwhere(grid).tolist() == [[0, 2, 3], [3, 2, 3]]
    fine = occupied(ball().points, GRID)
    np.testing.assert_array_equal(unpack(pack(fine)), fine)
    halves = fine.reshape(32, 2, 32, 2, 32, 2).any(axis=(1, 3, 5))
    np.testing.assert_array_equal(halves, occupied(ball().points, 32))


def test_what_is_in_front_of_a_surface_is_empty(sides: list[OrthographicView]) -> None:
    directions = sphere_directions(50)
    assert visibly_empty(directions * (RADIUS + 0.06), sides).all()
    assert not visibly_empty(directions * (RADIUS - 0.02), sides).any()


def test_the_distance_of_a_ball(sides: list[OrthographicView]) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed (the extra `objects`)")
    distance = signed_distance(ball(), sides) / STEPS / GRID
    axis = np.linspace(-0.5, 0.5, GRID + 1)
    place = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    true = np.linalg.norm(place, axis=-1) - RADIUS
    near = np.abs(true) < 1.5 / GRID
    assert np.abs(distance - true)[near].max() < 0.4 / GRID
    assert np.abs(distance - true)[near].mean() < 0.05 / GRID
    assert (np.sign(distance) == np.sign(true))[np.abs(true) > 0.5 / GRID].all()


def test_a_sheet_gets_a_thickness() -> None:
    """A square without thickness, seen from both sides, has an inside all over."""
    pytest.importorskip("scipy", reason="scipy is not installed (the extra `objects`)")
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.4, 0.4, (100_000, 3)).astype(np.float32)
    points[:, 2] = 0.003
    normals = np.zeros_like(points)
    normals[:, 2] = rng.choice([-1, 1], len(points))
    sides = []
    for height in (-1.0, 1.0):
        camera = RenderCamera(
            look_along(np.array([0, 0, -height])), np.array([0.0, 0.0, 2.0]), reach=0.9
        )
        axis = np.abs(camera.reach - (np.arange(PIXELS) + 0.5) * (2 * camera.reach / PIXELS))
        covered = (axis[:, None] < 0.4) & (axis[None] < 0.4)
        depth = np.where(covered, 2 - height * 0.003, np.inf)
        sides.append(OrthographicView(camera, depth.astype(np.float32)))
    distance = signed_distance(SurfaceSamples(points, normals, points), sides)
    middle = slice(10, 55)
    assert (distance[middle, middle].min(axis=-1) < 0).all()
    assert (distance[middle, middle] < 0).sum(axis=-1).max() <= 2


def test_uniform_samples_cover_every_cell() -> None:
    surface = ball(50_000)
    area = np.where(surface.points[:, 2] > 0, 1.0, 0.002).astype(np.float32)
    samples = uniform_samples(surface, area, 4096, np.random.default_rng(0), cover=16)
    assert samples.points.shape == (4096, 3)
    np.testing.assert_array_equal(occupied(samples.points, 16), occupied(surface.points, 16))
    assert np.mean(samples.points[:, 2] > 0) > 0.8
