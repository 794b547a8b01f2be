"""The picture's pixels are on the side of the object that its camera saw, and only there."""

from dataclasses import replace

import torch

from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import SH_BAND_0, Gaussians
from loci.geometry.gaussians.projection import project_gaussians
from loci.geometry.gaussians.rasterize import composite_tiles, pixel_weights
from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh
from loci.objects.photo import PhotoConfig, paint
from tests.geometry.mesh.balls import ball, painting

CAMERA = Camera.orbit(20, 15, 2.0, 40)
SIDE = 96


def gray(mesh: Mesh) -> Mesh:
    return replace(mesh, colors=torch.full_like(mesh.vertices, 0.8))


def splats(mesh: Mesh) -> Gaussians:
    count = len(mesh.vertices)
    return Gaussians(
        mesh.vertices,
        torch.full((count, 3), 0.3 / SH_BAND_0),
        torch.full((count, 3), 0.012),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count,), 3.0),
    )


def photograph(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and mask of the painted ball."""
    drawn = render_mesh(mesh, CAMERA, SIDE, light=None)
    pixels = (drawn.color.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return pixels, drawn.alpha > 0.5


def psnr(color: torch.Tensor, pixels: torch.Tensor, where: torch.Tensor) -> float:
    error = color.clamp(0, 1) - pixels.permute(2, 0, 1).float() / 255
    return float(-10 * error.square().mean(0)[where].mean().log10())


def test_the_input_view_is_the_picture() -> None:
    truth = ball(5)
    pixels, inside = photograph(truth)
    gaussians, mesh, iou = paint(CAMERA, splats(truth), gray(truth), pixels, inside)
    assert iou > 0.98
    assert gaussians is not None
    assert mesh is not None
    core = -torch.nn.functional.max_pool2d(-inside.float()[None], 9, 1, 4)[0] > 0
    for color in (
        render_mesh(mesh, CAMERA, SIDE, light=None).color,
        render_gaussians(gaussians, CAMERA, SIDE).color,
    ):
        assert psnr(color, pixels, core) > 22
    assert psnr(render_mesh(gray(truth), CAMERA, SIDE, light=None).color, pixels, core) < 10


def test_what_was_seen_is_right_and_fades_without_a_seam_into_what_was_generated() -> None:
    truth = ball(4)
    pixels, inside = photograph(truth)
    _, mesh, _ = paint(CAMERA, None, gray(truth), pixels, inside)
    assert mesh is not None
    assert mesh.colors is not None
    facing = torch.nn.functional.normalize(CAMERA.eye - mesh.vertices, dim=1)
    cosine = (facing * mesh.vertex_normals).sum(1)
    front, back = mesh.colors[cosine > 0.6], mesh.colors[cosine < -0.7]
    torch.testing.assert_close(front, painting(truth.vertices)[cosine > 0.6], atol=0.12, rtol=0)
    assert torch.equal(back, torch.full_like(back, 0.8)), "as generated"
    # Near what was seen, the brightness of the picture, without its pattern.
    beside = mesh.colors[(cosine > -0.1) & (cosine < 0.1)]
    assert beside.std(0).max() < front.std(0).min()
    assert abs(beside.mean() - front.mean()) < (back.mean() - front.mean()) / 2
    # No seam: neighbours at the border of what is seen differ as little as anywhere.
    a, b = mesh.colors[mesh.faces[:, 0]], mesh.colors[mesh.faces[:, 1]]
    edge = (cosine[mesh.faces].amin(1) < 0.2) & (cosine[mesh.faces].amax(1) > 0.0)
    assert (a - b).abs()[edge].max() < 0.25


def test_what_stands_in_front_is_not_painted_on_what_stands_behind() -> None:
    near, far = ball(4), ball(4)
    middle = CAMERA.eye / CAMERA.eye.norm()
    both = Mesh(
        torch.cat([near.vertices * 0.4 + 0.3 * middle, far.vertices - 0.4 * middle]),
        torch.cat([near.faces, far.faces + len(near.vertices)]),
        torch.cat(
            [torch.tensor([1.0, 0, 0]).expand(len(near.vertices), 3), far.vertices * 0 + 0.5]
        ),
    )
    pixels, inside = photograph(both)
    _, mesh, _ = paint(CAMERA, None, replace(both, colors=both.vertices * 0 + 0.5), pixels, inside)
    assert mesh is not None
    assert mesh.colors is not None
    hidden = CAMERA.project(far.vertices, SIDE)[:, :2]
    center = CAMERA.project(torch.zeros(1, 3), SIDE)[0, :2]
    covered = (hidden - center).norm(dim=1) < 8
    red = mesh.colors[len(near.vertices) :][covered]
    assert covered.sum() > 5
    assert (red[:, 0] - red[:, 1]).max() < 0.6
    assert (mesh.colors[: len(near.vertices), 0] > 0.5).any()


def test_a_pose_beside_the_mask_paints_nothing() -> None:
    truth = ball(3)
    pixels, inside = photograph(truth)
    given = splats(truth), gray(truth)
    gaussians, mesh, iou = paint(CAMERA, *given, pixels.roll(30, 1), inside.roll(30, 1))
    assert iou < PhotoConfig().min_iou
    assert gaussians is given[0]
    assert mesh is given[1]


def test_weights_of_pixels_are_those_that_draw() -> None:
    drawn = project_gaussians(splats(ball(3)), CAMERA, (40, 50))
    pixel, splat, weight = pixel_weights(drawn, 40, 50, 0)
    sums = torch.zeros(2000, 3).index_add(0, pixel, drawn.colors[splat] * weight[:, None])
    expected = composite_tiles(drawn, 40, 50)[:3]
    torch.testing.assert_close(sums.T.reshape(3, 40, 50), expected, atol=2e-3, rtol=0)
