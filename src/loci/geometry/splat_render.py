"""Gaussians to a picture, with gradients, on any device."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.camera import Camera, Size, both
from loci.geometry.gaussians import Gaussians
from loci.geometry.splat_composite import composite_tiles
from loci.geometry.splat_cuda import gsplat_installed, render_with_gsplat
from loci.geometry.splat_projection import project_gaussians

Background = float | Float[Tensor, "3"] | Float[Tensor, "3 h w"]


class Rendering(NamedTuple):
    """What a camera sees.

    Attributes:
        colour: RGB over the background, `[3, h, w]`; in [0, 1] where Gaussians and background are.
        alpha: how much of a pixel is covered, in [0, 1], `[h, w]`.
        depth: mean z of what covers a pixel, in world units, `[h, w]`; 0 where nothing does.
    """

    colour: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]


def render_gaussians(
    gaussians: Gaussians, camera: Camera, size: Size, background: Background = 0.0
) -> Rendering:
    """Draws Gaussians with the mip filter of SAM 3D Objects, 9; differentiable.

    Plain torch on any device (`splat_reference` is its contract), or gsplat where the Gaussians
    are on CUDA and it is installed.

    Args:
        gaussians: in the camera's world.
        camera: moved to the Gaussians' dtype and device; gradients reach its pose too.
        size: height and width in pixels, or one number for a square.
        background: RGB, one grey level, or a picture of that size.
    """
    height, width = both(size)
    if gaussians.positions.is_cuda and gsplat_installed():
        colour, alpha, depth = render_with_gsplat(gaussians, camera, height, width)
    else:
        splats = project_gaussians(gaussians, camera, (height, width))
        sums = composite_tiles(splats, height, width)
        colour, alpha, depth = sums[:3], sums[3], sums[4] / sums[3].clamp(min=1e-6)
    return Rendering(over(colour, alpha, background), alpha, depth)


def over(
    colour: Float[Tensor, "3 h w"], alpha: Float[Tensor, "h w"], background: Background
) -> Float[Tensor, "3 h w"]:
    """A colour already multiplied by its alpha, laid over a background."""
    behind = torch.as_tensor(background).to(colour)
    behind = behind[:, None, None] if behind.ndim == 1 else behind
    return colour + (1 - alpha) * behind
