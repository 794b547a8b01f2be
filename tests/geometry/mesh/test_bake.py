"""Unwrapping, baking and writing textures."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.geometry.gaussians.render import RenderOutput
from loci.geometry.io import write_glb
from loci.geometry.mesh.bake import BakeConfig, bake_texture, unwrap
from loci.geometry.mesh.mesh import Mesh, Texture
from loci.geometry.mesh.render import render_mesh
from loci.geometry.placing import place_mesh
from tests.geometry.mesh.balls import ball, painting


def test_unwrapped_triangles_do_not_overlap() -> None:
    mesh = ball(2)
    cut, places, sources = unwrap(mesh, 256)
    assert cut.vertices.equal(mesh.vertices[sources])
    assert len(cut.faces) == len(mesh.faces)
    assert 0 <= float(places.min()) <= float(places.max()) <= 1
    a, b, c = places[cut.faces].unbind(1)
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    assert 0.2 < float(areas.sum()) <= 1


@pytest.fixture(scope="module")
def painted() -> Mesh:
    fine = ball(6)

    def look(camera: Camera, size: int) -> RenderOutput:
        return render_mesh(fine, camera, size, light=None)

    return bake_texture(ball(3), look, BakeConfig(side=256, views=16, pixels=192))


def test_a_texture_shows_what_vertices_cannot(painted: Mesh) -> None:
    camera = Camera.orbit(33, 12, 2.0, 30.0)
    truth, coarse, textured = (
        render_mesh(mesh, camera, 128, light=None) for mesh in (ball(6), ball(3), painted)
    )
    inside = (truth.alpha == 1) & (textured.alpha == 1)
    error, plain = (
        (drawn.color - truth.color)[:, inside].square().mean() for drawn in (textured, coarse)
    )
    assert error < 0.2 * plain


def test_every_place_gets_the_color_of_its_own_surface(painted: Mesh) -> None:
    assert painted.texture is not None
    middles = painted.vertices[painted.faces].mean(dim=1)
    found = painted.texture.at(painted.texture.uv[painted.faces].mean(dim=1))
    on_ball = 0.4 * torch.nn.functional.normalize(middles, dim=1)
    assert (found - painting(on_ball)).abs().mean() < 0.05


def test_the_file_holds_the_texture_and_no_colors_that_would_darken_it(
    painted: Mesh, tmp_path
) -> None:
    path = tmp_path / "ball.glb"
    plain = ball(1)
    write_glb(path, {"ball": painted, "plain": plain})
    raw = path.read_bytes()
    (length,) = struct.unpack("<I", raw[12:16])
    described = json.loads(raw[20 : 20 + length])
    textured, colored = (mesh["primitives"][0] for mesh in described["meshes"])
    assert "COLOR_0" not in textured["attributes"]
    assert "COLOR_0" in colored["attributes"]
    read: Any = trimesh.load_scene(path).geometry["ball"]
    assert painted.texture is not None
    picture = np.asarray(read.visual.material.baseColorTexture.convert("RGB"))
    assert np.array_equal(picture, painted.texture.image.numpy())
    # trimesh counts from below, glTF and we from the top.
    places = np.stack([read.visual.uv[:, 0], 1 - read.visual.uv[:, 1]], axis=1)
    assert np.allclose(places, painted.texture.uv.numpy(), atol=1e-6)


def test_no_seam_is_lit(painted: Mesh, tmp_path) -> None:
    outwards = torch.nn.functional.normalize(painted.vertices, dim=1)
    assert (painted.vertex_normals * outwards).sum(dim=1).min() > 0.99
    write_glb(tmp_path / "ball.glb", {"ball": painted})
    read: Any = trimesh.load_scene(tmp_path / "ball.glb").geometry["ball"]
    places, normals = (torch.from_numpy(np.array(x)) for x in (read.vertices, read.vertex_normals))
    places = torch.nn.functional.normalize(places, dim=1)
    assert (places * normals).sum(dim=1).min() > 0.99
    quaternion = torch.nn.functional.normalize(torch.tensor([0.9, 0.1, -0.3, 0.2]), dim=0)
    moved = place_mesh(painted, quaternion, torch.ones(3), torch.full((3,), 2.0))
    outwards = torch.nn.functional.normalize(moved.vertices - 1, dim=1)
    assert (moved.vertex_normals * outwards).sum(dim=1).min() > 0.99


def test_charts_do_not_bleed_into_each_other_in_a_small_texture() -> None:
    mesh = ball(3)

    def look(camera: Camera, size: int) -> RenderOutput:
        drawn = render_mesh(mesh, camera, size, light=None)
        return drawn._replace(color=drawn.alpha.expand(3, -1, -1))

    black = Mesh(mesh.vertices, mesh.faces)
    white = bake_texture(black, look, BakeConfig(side=64, views=12, pixels=96))
    assert white.texture is not None
    middles = white.texture.at(white.texture.uv[white.faces].mean(dim=1))
    assert middles.min() > 0.9


def test_what_cannot_be_spread_out_is_refused() -> None:
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(LociError, match="no area"):
        unwrap(point, 64)


def test_a_texture_is_read_row_by_row_from_the_top() -> None:
    picture = torch.zeros(2, 4, 3, dtype=torch.uint8)
    picture[0, 3] = 255
    texture = Texture(torch.zeros(1, 2), picture)
    assert texture.at(torch.tensor([[0.9, 0.2], [0.1, 0.2], [0.9, 0.8]])).mean(1).tolist() == [
        1.0,
        0.0,
        0.0,
    ]
    assert Image.fromarray(picture.numpy()).getpixel((3, 0)) == (255, 255, 255)


def test_a_mesh_without_faces_is_refused() -> None:
    nothing = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    with pytest.raises(LociError, match="without faces"):
        bake_texture(nothing, lambda camera, size: render_mesh(nothing, camera, size))
