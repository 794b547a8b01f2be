"""3-D Gaussians as a camera sees them: flat, coloured, from near to far."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.camera import Camera, Size, height_width
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.rotations import quaternion_to_matrix

MIP_KERNEL = 0.1
"""Variance in square pixels that the screen adds to every Gaussian (SAM 3D Objects, 9)."""
NEAR = 0.01
"""Gaussians whose centres are nearer (in world units) or behind are not drawn."""
SIDE_LIMIT = 1.3
"""The projection is linearised no farther out than this many half pictures."""
LEAST_ALPHA = 1 / 255
"""A Gaussian does not touch a pixel where it would cover less of it."""
MOST_ALPHA = 0.999
"""No Gaussian hides what lies behind it entirely: gradients pass."""


@dataclass(frozen=True)
class Splats:
    """Gaussians on the screen, sorted by depth, near first.

    Attributes:
        centres: x right and y down in pixels, `[n, 2]`.
        covariances: xx, xy and yy in square pixels, the mip kernel included, `[n, 3]`.
        opacities: at the centre, after the mip filter, `[n]`.
        colors: RGB, not below 0, `[n, 3]`.
        depths: z of the centres, `[n]`.
    """

    centres: Float[Tensor, "n 2"]
    covariances: Float[Tensor, "n 3"]
    opacities: Float[Tensor, "n"]
    colors: Float[Tensor, "n 3"]
    depths: Float[Tensor, "n"]

    @property
    def conics(self) -> Float[Tensor, "n 3"]:
        """The inverse of the covariances: xx, xy, yy."""
        xx, xy, yy = self.covariances.unbind(1)
        return torch.stack([yy, -xy, xx], dim=1) / (xx * yy - xy * xy)[:, None]


def project_gaussians(gaussians: Gaussians, camera: Camera, size: Size) -> Splats:
    """What stands before the camera, in the screen's coordinates; differentiable.

    The mip filter widens a Gaussian by the screen's kernel and takes as much from its opacity as
    its area grows, so that thin ones do not get fat from afar.
    """
    camera = camera.to(gaussians.positions)
    order = _near_to_far(camera.view(gaussians.positions.detach())[:, 2])
    x, y, z = camera.view(gaussians.positions[order]).unbind(1)
    across, down = _rows_of_jacobian(x, y, z, camera, size)
    turn = quaternion_to_matrix(gaussians.quaternions[order])
    scales = gaussians.scales[order]
    across = (across[:, :, None] * turn).sum(1) * scales
    down = (down[:, :, None] * turn).sum(1) * scales
    xx, xy, yy = (across * across).sum(1), (across * down).sum(1), (down * down).sum(1)
    area = xx * yy - xy * xy
    xx, yy = xx + MIP_KERNEL, yy + MIP_KERNEL
    kept = (area / (xx * yy - xy * xy)).clamp(min=1e-6).sqrt()
    height, width = height_width(size)
    focal = camera.focal(size)
    return Splats(
        torch.stack([width / 2 - focal * x / z, height / 2 - focal * y / z], dim=1),
        torch.stack([xx, xy, yy], dim=1),
        torch.sigmoid(gaussians.opacity_logits[order]) * kept,
        gaussians.colors[order].clamp(min=0),
        z,
    )


def _near_to_far(depths: Float[Tensor, "n"]) -> Tensor:
    order = torch.argsort(depths)
    return order[int((depths < NEAR).sum()) :]


def _rows_of_jacobian(
    x: Tensor, y: Tensor, z: Tensor, camera: Camera, size: Size
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """How x and y on the screen change with a step in the world, `[n, 3]` each."""
    height, width = height_width(size)
    focal = camera.focal(size)
    limit = SIDE_LIMIT / (2 * focal)
    u = (x / z).clamp(-limit * width, limit * width)[:, None]
    v = (y / z).clamp(-limit * height, limit * height)[:, None]
    left, up, forward = camera.rotation.T
    step = (focal / z)[:, None]
    return step * (u * forward - left), step * (v * forward - up)


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
