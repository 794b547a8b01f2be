"""Meshes from active voxels equal those from the dense grid."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loci.geometry.mesh.flexicubes import Cubes, activated, extract_isosurface
from loci.geometry.mesh.from_features import CHANNELS, features_to_mesh
from loci.geometry.mesh.mesh import Mesh
from tests.geometry.mesh.balls import as_trimesh
from tests.geometry.mesh.test_flexicubes import grid

SIDE = 6


def active(seed: int, share: float) -> tuple[Tensor, Tensor]:
    """Random active voxels and channels."""
    generator = torch.Generator().manual_seed(seed)
    coords = torch.cartesian_prod(*(torch.arange(SIDE),) * 3)
    coords = coords[torch.rand(len(coords), generator=generator) < share]
    feats = torch.randn(len(coords), sum(CHANNELS.values()), generator=generator)
    return feats, coords


def on_the_whole_grid(feats: Tensor, coords: Tensor) -> Mesh:
    """The definition, with every corner and every cube of the grid filled in."""
    corner_positions, cubes = grid(SIDE)
    corners = (SIDE + 1) ** 3
    sdf, deform, weights, colors = feats.split(list(CHANNELS.values()), dim=1)
    values = torch.cat(
        [(sdf - 1 / SIDE).view(-1, 8, 1), deform.view(-1, 8, 3), colors.view(-1, 8, 6)], dim=-1
    )
    places = cubes.corners[(coords * torch.tensor([SIDE**2, SIDE, 1])).sum(1)]
    total = torch.zeros(corners, 10).index_add(0, places.flatten(), values.flatten(0, 1))
    count = torch.zeros(corners).index_add(0, places.flatten(), torch.ones(places.numel()))
    mean = total / count.clamp(min=1)[:, None]
    mean[count == 0, 0] = 1.0
    filled = torch.zeros(len(cubes.coords), 21)
    filled[(coords * torch.tensor([SIDE**2, SIDE, 1])).sum(1)] = weights
    surface = extract_isosurface(
        corner_positions + torch.tanh(mean[:, 1:4]) / (2 * SIDE),
        mean[:, 0],
        Cubes(*cubes),
        activated(filled[:, :12], filled[:, 12:20], filled[:, 20]),
        mean[:, 4:],
    )
    assert surface.attributes is not None
    colors, normals = surface.attributes.split(3, dim=1)
    return Mesh(surface.vertices, surface.faces, colors, normals)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.3, 1.0]))
def test_active_voxels_and_their_ring_are_enough(seed: int, share: float) -> None:
    feats, coords = active(seed, share)
    ours, whole = features_to_mesh(feats, coords, SIDE), on_the_whole_grid(feats, coords)
    assert torch.allclose(ours.vertices, whole.vertices, atol=1e-6)
    assert torch.equal(ours.faces, whole.faces)
    assert ours.colors is not None
    assert whole.colors is not None
    assert torch.allclose(ours.colors, whole.colors, atol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_the_order_of_voxels_does_not_matter(seed: int) -> None:
    feats, coords = active(seed, 0.3)
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(seed))
    ours = features_to_mesh(feats, coords, SIDE)
    shuffled = features_to_mesh(feats[order], coords[order], SIDE)
    assert torch.equal(ours.faces, shuffled.faces)
    assert torch.allclose(ours.vertices, shuffled.vertices, atol=1e-5)


def test_fixed_the_distance_bias_is_not_added_in_place() -> None:
    """Unlike the published code: a second extraction of one tensor gives the same surface."""
    feats, coords = active(3, 0.4)
    kept = feats.clone()
    first, second = (features_to_mesh(feats, coords, SIDE) for _ in range(2))
    assert torch.equal(feats, kept)
    assert torch.equal(first.vertices, second.vertices)


def test_preserved_distances_are_biased_by_one_voxel() -> None:
    """As published: 1 / R is taken off, so a distance of 0 is inside."""
    coords = torch.cartesian_prod(*(torch.arange(2, 4),) * 3)
    feats = torch.zeros(len(coords), sum(CHANNELS.values()))
    assert len(features_to_mesh(feats, coords, SIDE).faces) > 0
    feats[:, :8] = 1.01 / SIDE
    assert len(features_to_mesh(feats, coords, SIDE).faces) == 0


def test_vertices_stay_within_the_frame_and_bfloat16_will_do() -> None:
    feats, coords = active(1, 1.0)
    mesh = features_to_mesh(feats.bfloat16(), coords, SIDE)
    assert mesh.vertices.dtype == torch.float32
    assert mesh.vertices.abs().max() <= 0.5 + 1 / SIDE


RESOLUTION, RADIUS = 16, 6.0


def solid_ball() -> tuple[Tensor, Tensor]:
    """Channels and coordinates of the voxels along the surface of a solid ball."""
    axis = torch.arange(RESOLUTION)
    coords = torch.cartesian_prod(axis, axis, axis)
    corner = torch.arange(8)
    steps = torch.stack([corner & 1, corner >> 1 & 1, corner >> 2 & 1], dim=1)
    places = (coords[:, None] + steps).float() - RESOLUTION / 2
    distance = places.norm(dim=-1) - RADIUS
    surface = (distance.amin(1) < 1) & (distance.amax(1) > -1)
    feats = torch.zeros(int(surface.sum()), sum(CHANNELS.values()))
    feats[:, :8] = distance[surface] + 1 / RESOLUTION
    return feats, coords[surface]


def test_a_closed_ball_has_no_inside() -> None:
    feats, coords = solid_ball()
    radii = features_to_mesh(feats, coords, RESOLUTION, closed=True).vertices.norm(dim=1)
    torch.testing.assert_close(radii * RESOLUTION, torch.full_like(radii, RADIUS), atol=0.2, rtol=0)


def test_as_published_it_has_one() -> None:
    feats, coords = solid_ball()
    radii = features_to_mesh(feats, coords, RESOLUTION).vertices.norm(dim=1) * RESOLUTION
    assert radii.min() < RADIUS - 1
    assert radii.max() < RADIUS + 0.2


def test_the_surface_is_watertight() -> None:
    feats, coords = solid_ball()
    faces = features_to_mesh(feats, coords, RESOLUTION, closed=True).faces
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, counts = edges.sort(dim=1).values.unique(dim=0, return_counts=True)
    assert (counts == 2).all()


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 1.0]))
def test_a_continued_surface_has_no_border(seed: int, share: float) -> None:
    """Not at the border of the active voxels, nor at that of the grid."""
    feats, coords = active(seed, share)
    feats[:, :8] -= 1  # mostly inside, out to the grid's border
    mesh = features_to_mesh(feats, coords, SIDE, closed=True)
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.volume > 0


def test_a_hole_in_the_band_is_spanned() -> None:
    """Voxels are missing along the surface of a ball: it stays one solid without an inside."""
    feats, coords = solid_ball()
    kept = ((coords - RESOLUTION // 2)[:, :2].abs() > 2).any(1) | (coords[:, 2] < RESOLUTION // 2)
    assert (~kept).sum() > 8
    mesh = features_to_mesh(feats[kept], coords[kept], RESOLUTION, closed=True)
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    assert solid.body_count == 1
    assert solid.volume > 0.8 * 4 / 3 * 3.1416 * (RADIUS / RESOLUTION) ** 3


def test_corners_beyond_the_band_have_the_colors_beside_them() -> None:
    feats, coords = solid_ball()
    feats[:, 32 + 21 :] = 3.0
    kept = coords[:, 2] < RESOLUTION // 2 + 3
    colors = features_to_mesh(feats[kept], coords[kept], RESOLUTION, closed=True).colors
    assert colors is not None
    torch.testing.assert_close(colors, torch.tensor(3.0).sigmoid().expand_as(colors))
