"""The contract of every splat renderer: each pixel looks at every Gaussian, nothing is left out."""

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.splat_projection import LEAST_ALPHA, MOST_ALPHA, Splats


def composite_reference(splats: Splats, height: int, width: int) -> Float[Tensor, "5 h w"]:
    """Red, green, blue, coverage and depth, each the sum of what the Gaussians give to a pixel.

    A Gaussian covers alpha = opacity * exp(-d^T C^-1 d / 2) of a pixel's centre, at most
    `MOST_ALPHA`, and nothing below `LEAST_ALPHA`; it gives alpha times what is left of the light
    after all nearer ones. Memory is n times h times w.
    """
    centres = splats.centres
    x = torch.arange(width).to(centres) + 0.5 - centres[:, 0, None]
    y = torch.arange(height).to(centres) + 0.5 - centres[:, 1, None]
    xx, xy, yy = (part[:, None, None] for part in splats.conics.unbind(1))
    dx, dy = x[:, None, :], y[:, :, None]
    distance = xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy
    alpha = splats.opacities[:, None, None] * torch.exp(-distance / 2)
    alpha = torch.where(alpha < LEAST_ALPHA, 0, alpha.clamp(max=MOST_ALPHA))
    left = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat([torch.ones_like(left[:1]), left[:-1]])
    given = [splats.colors, torch.ones_like(splats.depths)[:, None], splats.depths[:, None]]
    return torch.einsum("nc,nhw->chw", torch.cat(given, dim=1), before * alpha)
