"""Solid objects have one surface."""

import torch
from torch import Tensor

from loci.geometry.mesh.from_features import CHANNELS, features_to_mesh

RESOLUTION, RADIUS = 16, 6.0


def ball() -> tuple[Tensor, Tensor]:
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
    feats, coords = ball()
    radii = features_to_mesh(feats, coords, RESOLUTION, closed=True).vertices.norm(dim=1)
    torch.testing.assert_close(radii * RESOLUTION, torch.full_like(radii, RADIUS), atol=0.2, rtol=0)


def test_as_released_it_has_one() -> None:
    feats, coords = ball()
    radii = features_to_mesh(feats, coords, RESOLUTION).vertices.norm(dim=1) * RESOLUTION
    assert radii.min() < RADIUS - 1
    assert radii.max() < RADIUS + 0.2


def test_the_surface_is_watertight() -> None:
    feats, coords = ball()
    faces = features_to_mesh(feats, coords, RESOLUTION, closed=True).faces
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, counts = edges.sort(dim=1).values.unique(dim=0, return_counts=True)
    assert (counts == 2).all()
