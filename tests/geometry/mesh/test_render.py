"""Pictures of meshes whose look can be computed."""

import math

import pytest
import torch

from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import PreviewLight, render_mesh
from loci.geometry.turntable import TurntableConfig, bounding_sphere, turntable

FRONT = Camera.orbit(0, 0, 2, 90)


def ball(radius: float, rings: int = 24) -> Mesh:
    """A sphere of latitudes and longitudes, its faces counter-clockwise from outside."""
    turns = 2 * rings
    polar = torch.linspace(0, math.pi, rings + 1)[:, None]
    around = torch.arange(turns)[None] * (2 * math.pi / turns)
    x, y = polar.sin() * around.cos(), polar.sin() * around.sin()
    z = polar.cos().expand_as(x)
    a = (torch.arange(rings)[:, None] * turns + torch.arange(turns)).flatten()
    b = (torch.arange(rings)[:, None] * turns + (torch.arange(turns) + 1) % turns).flatten()
    faces = torch.cat(
        [torch.stack([a, a + turns, b], 1), torch.stack([b, a + turns, b + turns], 1)]
    )
    return Mesh(radius * torch.stack([x, y, z], dim=-1).flatten(0, 1), faces)


def wall(y: float, side: float, color: list[float]) -> Mesh:
    """A square that faces the front."""
    x, z = torch.tensor([-1.0, 1, 1, -1]) * side, torch.tensor([-1.0, -1, 1, 1]) * side
    places = torch.stack([x, torch.full((4,), y), z], dim=1)
    return Mesh(places, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([color]).expand(4, 3))


def test_a_ball_covers_its_disc_and_bulges_towards_the_camera() -> None:
    camera = Camera.orbit(70, 35, 2, 40)
    _, alpha, depth = render_mesh(ball(0.4), camera, 100)
    radius = camera.focal(100) * math.tan(math.asin(0.4 / 2))
    assert float(alpha.sum()) == pytest.approx(math.pi * radius**2, rel=0.02)
    assert depth[50, 50] == pytest.approx(1.6, abs=0.01)
    assert (float(alpha[0, 0]), float(depth[0, 0])) == (0, 0)


def test_the_nearer_wall_hides_the_farther_one_whatever_their_order() -> None:
    near, far = wall(-0.5, 0.3, [1.0, 0, 0]), wall(0.5, 1.0, [0.0, 1, 0])
    for first, second in ((near, far), (far, near)):
        assert first.colors is not None
        assert second.colors is not None
        both = Mesh(
            torch.cat([first.vertices, second.vertices]),
            torch.cat([first.faces, second.faces + 4]),
            torch.cat([first.colors, second.colors]),
        )
        color, _, depth = render_mesh(both, FRONT, 40, light=None)
        assert color[:, 20, 20].tolist() == [1, 0, 0]
        assert color[:, 20, 14].tolist() == [0, 1, 0]
        assert depth[20, 20] == pytest.approx(1.5)
        assert depth[20, 14] == pytest.approx(2.5)


def test_colors_are_interpolated_in_space_and_not_on_the_screen() -> None:
    floor = torch.tensor([[-1.0, -1, -0.5], [1, -1, -0.5], [1, 3, -0.5], [-1, 3, -0.5]])
    shade = ((floor[:, 1:2] + 1) / 4).expand(4, 3)
    mesh = Mesh(floor, torch.tensor([[0, 1, 2], [0, 2, 3]]), shade)
    color, alpha, depth = render_mesh(mesh, FRONT, 64, light=None, samples=1)
    seen = alpha > 0
    assert int(seen.sum()) > 300
    assert torch.allclose(color[0][seen], (depth[seen] - 1) / 4, atol=1e-4)  # y = depth - 2


def test_both_sides_are_lit_alike() -> None:
    mesh = ball(0.5)
    inside_out = Mesh(mesh.vertices, mesh.faces.flip(1))
    first, second = (render_mesh(m, FRONT, 32).color for m in (mesh, inside_out))
    assert torch.allclose(first, second, atol=1e-5)
    assert first[:, 16, 16].mean() > 0.4


def test_light_comes_from_the_lamp_and_edges_stay_sharp() -> None:
    light = PreviewLight(ambient=0, sky=0, key=1, lamp=(1.0, 0.0, -1.0), plain=(1, 1, 1))
    color = render_mesh(wall(0, 0.5, [1.0, 1, 1]), FRONT, 16, light=light).color
    assert color[0, 8, 8] == pytest.approx(math.cos(math.pi / 4), abs=1e-3)
    corner = torch.tensor(
        [[-1.0, 0, -1], [0, -1, -1], [0, -1, 1], [-1, 0, 1], [1, 0, -1], [1, 0, 1]]
    )
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]])
    row = render_mesh(Mesh(corner, faces), Camera.orbit(0, 0, 4, 60), 32, light=light).color[0, 16]
    left, right = row[10:15], row[17:22]  # the left side looks at the lamp, the right past it
    assert (left.min(), right.max()) == (pytest.approx(1, abs=1e-3), pytest.approx(0, abs=1e-3))


def test_faces_behind_the_camera_and_broken_ones_are_left_out() -> None:
    vertices = wall(-3.0, 1.0, [1.0, 1, 1]).vertices
    broken = torch.cat([vertices, torch.full((1, 3), torch.nan), torch.zeros(1, 3)])
    faces = torch.tensor([[0, 1, 2], [0, 1, 4], [5, 5, 5]])
    color, alpha, _ = render_mesh(Mesh(broken, faces), FRONT, 8, 0.5)
    assert float(alpha.sum()) == 0
    assert bool((color == 0.5).all())


def test_a_turntable_goes_round_and_keeps_everything_in_the_picture() -> None:
    mesh = wall(0.2, 0.4, [1.0, 0, 0])
    frames = turntable(mesh, (24, 32), config=TurntableConfig(frames=4))
    assert (frames.shape, frames.dtype) == ((4, 24, 32, 3), "uint8")
    assert (frames[:, :, 0] == 255).all()
    covered = (frames != 255).any(-1).sum((1, 2))
    assert covered[0] > 4 * covered[1]  # from the side a wall is a line
    assert covered[0] == pytest.approx(covered[2], rel=0.1)


def test_a_turntable_of_gaussians_ignores_strays() -> None:
    count = 300
    places = torch.randn(count, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    places[0] = 50.0
    gaussians = Gaussians(
        places,
        torch.zeros(count, 3),
        torch.full((count, 3), 0.02),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count,), 3.0),
    )
    assert bounding_sphere(gaussians)[1] < 0.6
    (frame,) = turntable(gaussians, 32, config=TurntableConfig(frames=1))
    assert (frame != 255).any(-1).mean() > 0.1
