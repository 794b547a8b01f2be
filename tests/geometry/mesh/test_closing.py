"""Meshes are closed: no border, two faces at every edge, one sheet at every vertex."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.geometry.mesh.closing import closed_mesh, is_closed
from loci.geometry.mesh.from_features import features_to_mesh
from loci.geometry.mesh.mesh import Mesh
from tests.geometry.mesh.balls import as_trimesh, ball
from tests.geometry.mesh.test_from_features import SIDE, active

CORNERS = torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]).float()
BOX = torch.tensor(
    [
        *([0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3], [0, 4, 5], [0, 5, 1]),
        *([2, 3, 7], [2, 7, 6], [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5]),
    ]
)


def welded(step: tuple[int, int, int]) -> Mesh:
    """Two boxes that share the vertices where they touch."""
    points = torch.cat([CORNERS, CORNERS + torch.tensor(step)])
    unique, renumbered = torch.unique(points, dim=0, return_inverse=True)
    return Mesh(unique, renumbered[torch.cat([BOX, BOX + 8])], unique / 2)


def test_boxes_and_balls_that_are_closed_stay_as_they_are() -> None:
    for mesh in (ball(2), Mesh(CORNERS, BOX)):
        assert is_closed(mesh)
        assert closed_mesh(mesh) is mesh or torch.equal(closed_mesh(mesh).faces, mesh.faces)
    assert as_trimesh(Mesh(CORNERS, BOX)).volume == pytest.approx(1)


@pytest.mark.parametrize("step", [(1, 1, 0), (1, 1, 1)], ids=["edge", "corner"])
def test_boxes_that_touch_come_apart(step: tuple[int, int, int]) -> None:
    mesh = welded(step)
    assert not is_closed(mesh)
    apart = closed_mesh(mesh)
    assert is_closed(apart)
    solid = as_trimesh(apart)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.body_count == 2
    assert len(apart.vertices) == 16
    assert solid.volume == pytest.approx(2, rel=0.05)
    # Viewers merge vertices at one place: it is still closed.
    solid.merge_vertices()
    assert solid.is_watertight
    assert apart.colors is not None
    assert torch.allclose(apart.colors, apart.vertices / 2, atol=0.02)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 1.0]))
def test_what_networks_make_is_closed(seed: int, share: float) -> None:
    """Also where the surface runs into the grid's border, as the published decoder's does."""
    mesh = closed_mesh(features_to_mesh(*active(seed, share), SIDE))
    assert is_closed(mesh)
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    assert solid.is_winding_consistent


def test_rims_that_touch_are_filled() -> None:
    whole = ball(2)
    gone = (whole.faces == 0).any(1)
    neighbor = int(whole.faces[gone].flatten()[whole.faces[gone].flatten() != 0][0])
    far = whole.faces[(whole.faces == neighbor).any(1)].flatten().tolist()
    gone |= (whole.faces == far[-1]).any(1)
    closed = closed_mesh(replace(whole, faces=whole.faces[~gone]))
    assert is_closed(closed)
    assert as_trimesh(closed).volume == pytest.approx(as_trimesh(whole).volume, rel=0.05)


def test_repeated_and_flat_faces_go() -> None:
    whole = ball(1)
    more = torch.cat([whole.faces, whole.faces[:3].roll(1, 1), whole.faces[:2, [0, 0, 1]]])
    closed = closed_mesh(replace(whole, faces=more))
    assert len(closed.faces) == len(whole.faces)
    assert is_closed(closed)
