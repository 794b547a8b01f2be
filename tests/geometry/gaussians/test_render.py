"""The tiled splat renderer against its contract, and the contract against arithmetic."""

import math
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loci.geometry.camera import OPENCV, Camera, flip_axes
from loci.geometry.gaussians.gaussians import SH_BAND_0, Gaussians
from loci.geometry.gaussians.projection import composite_reference, project_gaussians
from loci.geometry.gaussians.rasterize import composite_tiles, tile_splats
from loci.geometry.gaussians.render import render_gaussians, render_with_gsplat

CAMERA = Camera.orbit(30, 20, 1.6, 40)


def some(
    count: int, largest: float, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    position, color, scale, turn = torch.randn(4, count, 4, generator=generator, dtype=dtype)
    logits = 2 + 2 * torch.randn(count, generator=generator, dtype=dtype)
    scales = 0.002 + largest * torch.sigmoid(scale[:, :3])
    return Gaussians(position[:, :3] / 4, color[:, :3], scales, turn, logits)


def tensors(gaussians: Gaussians) -> list[Tensor]:
    return [part.detach().clone().requires_grad_() for part in vars(gaussians).values()]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 60),
    st.sampled_from([0.001, 0.03, 0.4]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 100),
)
def test_tiles_show_what_the_reference_shows(
    count: int, largest: float, height: int, width: int, seed: int
) -> None:
    splats = project_gaussians(some(count, largest, seed), CAMERA, (height, width))
    tiled = composite_tiles(splats, height, width)
    assert torch.allclose(tiled, composite_reference(splats, height, width), atol=1e-12)


@pytest.mark.parametrize(("largest", "side"), [(0.01, 4), (0.6, 8)])
def test_gradients_are_the_references(largest: float, side: int) -> None:
    height, width = 27, 34
    upon = torch.randn(5, height, width, dtype=torch.float64)
    pictures, gradients = [], []
    for composite in (composite_tiles, composite_reference):
        leaves = tensors(some(150, largest))
        splats = project_gaussians(Gaussians(*leaves), CAMERA, (height, width))
        assert tile_splats(splats, height, width).side == side
        pictures.append(composite(splats, height, width))
        pictures[-1].backward(upon)
        gradients.append([leaf.grad for leaf in leaves])
    assert torch.allclose(*pictures, atol=1e-12)
    for tiled, reference in zip(*gradients, strict=True):
        assert torch.allclose(tiled, reference, atol=1e-10 * float(reference.abs().max()))


def test_single_precision_is_close() -> None:
    gaussians = some(400, 0.02, dtype=torch.float32)
    splats = project_gaussians(gaussians, CAMERA, 48)
    tiled, reference = composite_tiles(splats, 48, 48), composite_reference(splats, 48, 48)
    assert (tiled - reference).abs().mean() < 1e-6


def test_gradients_are_differences() -> None:
    leaves = tensors(some(4, 0.2))

    def picture(*parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(render_gaussians(Gaussians(*parts), CAMERA, 6, 0.3))

    assert torch.autograd.gradcheck(picture, leaves, atol=1e-4, fast_mode=True)


def test_one_gaussian_by_hand() -> None:
    """Facing the camera its screen variance is (focal scale / z)^2, plus the mip kernel 0.1."""
    scale, z, size = 0.05, 2.0, 21
    gaussians = Gaussians(
        torch.tensor([[0.0, 0, z]]),
        (torch.tensor([[1.0, 0.5, 0.25]]) - 0.5) / SH_BAND_0,
        torch.full((1, 3), scale),
        torch.tensor([[2.0, 0, 0, 0]]),
        torch.zeros(1),
    )
    camera = Camera.identity(60)
    color, alpha, depth = render_gaussians(gaussians, camera, size, torch.tensor([0.0, 0, 1]))
    own = (camera.focal(size) * scale / z) ** 2
    peak = 0.5 * own / (own + 0.1)
    assert alpha[10, 10] == pytest.approx(peak, rel=1e-5)
    assert alpha[10, 11] == pytest.approx(peak * math.exp(-0.5 / (own + 0.1)), rel=1e-4)
    assert alpha[10, 11] == pytest.approx(float(alpha[9, 10]), rel=1e-5)
    assert color[:, 10, 10].tolist() == pytest.approx(
        [peak, peak / 2, peak / 4 + 1 - peak], rel=1e-5
    )
    assert depth[10, 10] == pytest.approx(z)
    assert (color[:, 0, 0].tolist(), alpha[0, 0], depth[0, 0]) == ([0, 0, 1], 0, 0)


def test_the_nearer_gaussian_hides_the_farther_whatever_their_order() -> None:
    red_near = Gaussians(
        torch.tensor([[0.0, 0, 3], [0, 0, 2], [0, 0, -2]]),
        torch.tensor([[-1.0, 1, -1], [1, -1, -1], [-1, -1, 1]]) * 0.5 / SH_BAND_0,
        torch.full((3, 3), 0.5),
        torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4),
        torch.full((3,), 20.0),
    )
    color = render_gaussians(red_near, Camera.identity(40), 9).color[:, 4, 4]
    assert color.tolist() == pytest.approx([1, 0, 0], abs=0.02)


def test_no_gaussians_give_the_background() -> None:
    color, alpha, depth = render_gaussians(some(0, 1.0), CAMERA, (3, 5), 0.25)
    assert color.shape == (3, 3, 5)
    assert bool((color == 0.25).all())
    assert float(alpha.sum()) == float(depth.sum()) == 0


def test_gradients_reach_the_cameras_pose() -> None:
    translation = CAMERA.translation.double().requires_grad_()
    camera = Camera(CAMERA.rotation.double(), translation, CAMERA.fov)
    render_gaussians(some(20, 0.1), camera, 12).alpha[:, :6].sum().backward()
    assert translation.grad is not None
    assert translation.grad[0] > 0  # x is left: that half gets fuller


def test_gsplat_is_asked_for_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that takes gsplat's documented arguments as gsplat defines them."""

    def rasterization(means: Tensor, quats: Tensor, **given: object) -> tuple[Tensor, Tensor, dict]:
        assert (given["eps2d"], given["rasterize_mode"]) == (0.1, "antialiased")
        assert given["render_mode"] == "RGB+ED"
        (view,), (lens,) = given["viewmats"], given["Ks"]  # pyright: ignore
        height, width = given["height"], given["width"]
        fov = 2 * math.degrees(math.atan(width / 2 / float(lens[0, 0])))  # pyright: ignore
        opacities: Tensor = given["opacities"]  # pyright: ignore
        colors: Tensor = given["colors"]  # pyright: ignore
        harmonics = (colors - 0.5) / SH_BAND_0
        back = Gaussians(means, harmonics, given["scales"], quats, opacities.logit())  # pyright: ignore
        turned, place = flip_axes(view[:3, :3].T, OPENCV), flip_axes(view[:3, 3], OPENCV)
        splats = project_gaussians(back, Camera(turned, place, fov), (height, width))  # pyright: ignore
        sums = composite_reference(splats, height, width)[:, None].permute(1, 2, 3, 0)  # pyright: ignore
        depth = sums[..., 4:] / sums[..., 3:4].clamp(min=1e-10)
        return torch.cat([sums[..., :3], depth], dim=-1), sums[..., 3:4], {}

    module = ModuleType("gsplat")
    monkeypatch.setattr(module, "rasterization", rasterization, raising=False)
    monkeypatch.setitem(sys.modules, "gsplat", module)
    gaussians = some(50, 0.1, dtype=torch.float32)
    color, alpha, depth = render_with_gsplat(gaussians, CAMERA, 20, 30)
    ours = render_gaussians(gaussians, CAMERA, (20, 30))
    assert torch.allclose(color, ours.color, atol=1e-4)
    assert torch.allclose(alpha, ours.alpha, atol=1e-4)
    assert torch.allclose(depth[alpha > 0.1], ours.depth[alpha > 0.1], atol=1e-3)
