import numpy as np
import pytest

from loci.data.objects.cleaning import LENGTH
from loci.data.objects.mesh_files import triangles
from loci.data.objects.synthetic import (
    KINDS,
    Kind,
    Solid,
    _submesh,
    composed_mesh,
    primitive_occupancy,
    random_solids,
    solid_occupancy,
)


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
    inside = points[solid.contains(points)]
    lowest, highest = solid.bounds()
    assert len(inside) > 100
    assert (inside >= lowest).all()
    assert (inside <= highest).all()


def test_a_mirrored_solid_is_a_mirror_image() -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    solid = Solid("box", np.array([0.3, 0.1, 0.0]), np.array([0.3, 0.1, 0.05]), turn)
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (5000, 3))
    np.testing.assert_array_equal(
        solid.contains(points), solid.mirrored(0).contains(points * [-1, 1, 1])
    )


GRAY = np.full(3, 0.5, np.float32)
INWARD = 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mesh_is_the_surface_of_its_solid(kind: Kind, mirrored: bool) -> None:
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    solid = Solid(kind, np.array([0.1, 0.0, -0.1]), np.array([0.3, 0.25, 0.15]), turn)
    solid = solid.mirrored(0) if mirrored else solid
    corners = triangles([_submesh(solid, GRAY, None)]).astype(float)
    middles = corners.mean(axis=1)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    outward = normals / areas[:, None]
    # A tray is of five boxes, whose sides where they touch lie inside of it.
    share = 0.7 if kind == "tray" else 0.97
    inside = solid.contains(middles - INWARD * outward)
    outside = ~solid.contains(middles + INWARD * outward)
    assert (areas * inside).sum() > share * areas.sum()
    assert (areas * outside).sum() > share * areas.sum()
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (60_000, 3))
    held = points[solid.contains(points)]
    np.testing.assert_allclose(corners.min(axis=(0, 1)), held.min(axis=0), atol=0.03)
    np.testing.assert_allclose(corners.max(axis=(0, 1)), held.max(axis=0), atol=0.03)


def test_a_seed_gives_one_object_and_another_gives_another() -> None:
    first, again, other = (composed_mesh(np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(triangles(first), triangles(again))
    assert len(first) == len(random_solids(np.random.default_rng(5)))
    assert (
        triangles(first).shape != triangles(other).shape
        or (triangles(first) != triangles(other)).any()
    )


def test_materials_are_colors_or_pictures() -> None:
    parts = [p for seed in range(12) for p in composed_mesh(np.random.default_rng(seed))]
    for part in parts:
        assert part.color.shape == (3,)
        assert part.color.min() >= 0
        assert part.color.max() <= 1
        assert part.uv.min() >= 0
        assert part.uv.max() <= 1
    textured = [part for part in parts if part.texture is not None]
    assert 0 < len(textured) < len(parts)
    assert textured[0].texture is not None
    assert textured[0].texture.shape == (32, 32, 4)
