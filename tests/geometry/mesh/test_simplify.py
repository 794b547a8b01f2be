"""Holes are filled and faces decimated."""

import pytest
import torch

from loci.errors import LociError
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.simplify import boundary_loops, decimate, fill_holes
from tests.geometry.mesh.balls import as_trimesh, ball, painting


def test_a_hole_is_closed_with_its_face_outwards() -> None:
    whole = ball(2)
    around = (whole.faces == 0).any(dim=1)
    open_mesh = Mesh(whole.vertices, whole.faces[~around], whole.colors)
    assert not as_trimesh(open_mesh).is_watertight
    again = as_trimesh(fill_holes(open_mesh))
    assert again.is_watertight
    assert again.is_winding_consistent
    assert again.volume == pytest.approx(as_trimesh(whole).volume, rel=0.02)


def test_a_hole_that_is_too_long_stays_and_so_does_a_whole_mesh() -> None:
    whole = ball(2)
    half = Mesh(whole.vertices, whole.faces[(whole.vertices[whole.faces, 2] > 0).all(dim=1)])
    (rim,) = boundary_loops(half.faces)
    assert fill_holes(half, len(rim) - 1) is half
    assert len(fill_holes(half, len(rim)).faces) == len(half.faces) + len(rim)
    assert fill_holes(whole) is whole


def test_rims_that_touch_stay_open() -> None:
    fan = torch.tensor([[0, 1, 2], [0, 3, 4]])  # two triangles that share a corner only
    bow = Mesh(torch.rand(5, 3, generator=torch.Generator().manual_seed(0)), fan)
    assert fill_holes(bow) is bow


def test_fewer_faces_keep_the_surface_and_its_colors() -> None:
    fine = ball(4)
    coarse = decimate(fine, 600)
    assert 560 <= len(coarse.faces) <= 640
    assert as_trimesh(coarse).is_watertight
    assert coarse.vertices.norm(dim=1).sub(0.4).abs().max() < 0.01
    assert coarse.colors is not None
    assert (coarse.colors - painting(coarse.vertices)).abs().mean() < 0.05
    assert decimate(ball(1), 600).faces.equal(ball(1).faces)
    with pytest.raises(LociError, match="at least 4"):
        decimate(fine, 3)
