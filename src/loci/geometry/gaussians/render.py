"""Rendering of Gaussians: in plain torch on any device, or by gsplat on CUDA if it is installed."""

from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.camera import Camera, Size, height_width
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.projection import MIP_KERNEL, NEAR, project_gaussians
from loci.geometry.gaussians.rasterize import composite_tiles


def gsplat_installed() -> bool:
    return find_spec("gsplat") is not None


def render_with_gsplat(
    gaussians: Gaussians, camera: Camera, height: int, width: int
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Colour over black, alpha and mean depth.

    "antialiased" with `eps2d` is the mip filter. gsplat stops where the transmittance is below
    1e-4, so images agree with the reference to about that. Untested without a GPU.
    """
    from gsplat import rasterization  # pyright: ignore[reportMissingImports]

    camera = camera.to(gaussians.positions)
    drawn, alpha, _ = rasterization(
        means=gaussians.positions,
        quats=gaussians.rotations,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors.clamp(min=0),
        viewmats=camera.to_opencv()[None],
        Ks=camera.intrinsics((height, width))[None],
        width=width,
        height=height,
        near_plane=NEAR,
        eps2d=MIP_KERNEL,
        rasterize_mode="antialiased",
        render_mode="RGB+ED",
    )
    return drawn[0, :, :, :3].permute(2, 0, 1), alpha[0, :, :, 0], drawn[0, :, :, 3]


Background = float | Float[Tensor, "3"] | Float[Tensor, "3 h w"]


class RenderOutput(NamedTuple):
    """A rendered image.

    Attributes:
        color: RGB over the background, `[3, h, w]`; in [0, 1] if both colours are.
        alpha: in [0, 1], `[h, w]`.
        depth: mean z, weighted by alpha, in world units, `[h, w]`; 0 where alpha is.
    """

    color: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]


def render_gaussians(
    gaussians: Gaussians, camera: Camera, size: Size, background: Background = 0.0
) -> RenderOutput:
    """Renders Gaussians with a mip filter, as SAM 3D Objects does; differentiable.

    `composite_reference` defines the result.

    Args:
        gaussians: in the camera's world.
        camera: moved to the Gaussians' dtype and device; gradients reach its pose too.
        size: height and width in pixels, or one number for a square.
        background: RGB, one grey level, or an image of that size.
    """
    height, width = height_width(size)
    if gaussians.positions.is_cuda and gsplat_installed():
        color, alpha, depth = render_with_gsplat(gaussians, camera, height, width)
    else:
        splats = project_gaussians(gaussians, camera, (height, width))
        sums = composite_tiles(splats, height, width)
        color, alpha, depth = sums[:3], sums[3], sums[4] / sums[3].clamp(min=1e-6)
    return RenderOutput(over(color, alpha, background), alpha, depth)


def over(
    color: Float[Tensor, "3 h w"], alpha: Float[Tensor, "h w"], background: Background
) -> Float[Tensor, "3 h w"]:
    """Premultiplied colour composited over a background."""
    behind = torch.as_tensor(background).to(color)
    behind = behind[:, None, None] if behind.ndim == 1 else behind
    return color + (1 - alpha) * behind
