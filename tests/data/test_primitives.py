import numpy as np
import pytest

from loci.data.mesh_cleaning import LENGTH
from loci.data.primitives import KINDS, Solid, primitive_occupancy, solid_occupancy


def test_a_seed_gives_one_shape() -> None:
    first, again, other = (primitive_occupancy(seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (32, 32, 32)


def test_shapes_fill_the_frame_and_are_hollow() -> None:
    for seed in range(8):
        grid = primitive_occupancy(seed, 16)
        longest = np.ptp(np.argwhere(grid), axis=0).max() + 1
        assert 0.7 * LENGTH * 16 < longest <= LENGTH * 16 + 2
        assert 16 <= grid.sum() < 0.5 * grid.size


def test_a_box_is_its_six_sides() -> None:
    grid = solid_occupancy([Solid("box", np.zeros(3), np.array([0.5, 0.5, 0.25]))])
    assert grid.any(axis=(1, 2)).sum() == 32
    assert grid.any(axis=(0, 1)).sum() == 16
    assert not grid[4:28, 4:28, 12:20].any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_inside_within_its_bounds(kind: str) -> None:
    solid = Solid(kind, np.array([0.1, 0.0, -0.1]), np.array([0.3, 0.2, 0.15]))  # pyright: ignore
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (20_000, 3))
    inside = points[solid.holds(points)]
    lowest, highest = solid.bounds()
    assert len(inside) > 100
    assert (inside >= lowest).all()
    assert (inside <= highest).all()


def test_a_mirrored_solid_is_a_mirror_image() -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    solid = Solid("box", np.array([0.3, 0.1, 0.0]), np.array([0.3, 0.1, 0.05]), turn)
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (5000, 3))
    np.testing.assert_array_equal(solid.holds(points), solid.mirrored(0).holds(points * [-1, 1, 1]))
