"""Projection of 3-D Gaussians to 2-D splats (EWA), and their compositing."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.camera import Camera, Size, height_width
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.rotations import quaternion_to_matrix

MIP_KERNEL = 0.1
"""Variance in square pixels that anti-aliasing adds to every splat, as in SAM 3D Objects."""
NEAR = 0.01
"""Gaussians whose depth is less (in world units) are not drawn."""
SIDE_LIMIT = 1.3
"""Points farther off centre than this many half images are linearised as if they lay there."""
MIN_ALPHA = 1 / 255
"""Splats contribute nothing to pixels where their alpha is less."""
MAX_ALPHA = 0.999
"""Alpha is clipped to it, so that gradients reach what lies behind."""


@dataclass(frozen=True)
class Splats:
    """2-D Gaussians on the screen, sorted by depth, nearest first.

    Attributes:
        centers: x right and y down in pixels, `[n, 2]`.
        covariances: xx, xy and yy in square pixels, with the mip kernel, `[n, 3]`.
        opacities: alpha at the centre, after the mip filter, `[n]`.
        colors: RGB, at least 0, `[n, 3]`.
        depths: z of the centres, `[n]`.
    """

    centers: Float[Tensor, "n 2"]
    covariances: Float[Tensor, "n 3"]
    opacities: Float[Tensor, "n"]
    colors: Float[Tensor, "n 3"]
    depths: Float[Tensor, "n"]

    @property
    def conics(self) -> Float[Tensor, "n 3"]:
        """Inverse covariances: xx, xy, yy."""
        xx, xy, yy = self.covariances.unbind(1)
        return torch.stack([yy, -xy, xx], dim=1) / (xx * yy - xy * xy)[:, None]


def project_gaussians(gaussians: Gaussians, camera: Camera, size: Size) -> Splats:
    """Projects the Gaussians in front of the camera; differentiable.

    The 2-D mip filter convolves each splat with `MIP_KERNEL` and lowers its opacity by as much as
    its area grows (Mip-Splatting, arXiv 2311.16493).
    """
    camera = camera.to(gaussians.positions)
    order = near_to_far(camera.view(gaussians.positions.detach())[:, 2])
    x, y, z = camera.view(gaussians.positions[order]).unbind(1)
    across, down = _rows_of_jacobian(x, y, z, camera, size)
    rotation = quaternion_to_matrix(gaussians.quaternions[order])
    scales = gaussians.scales[order]
    across = (across[:, :, None] * rotation).sum(1) * scales
    down = (down[:, :, None] * rotation).sum(1) * scales
    xx, xy, yy = (across * across).sum(1), (across * down).sum(1), (down * down).sum(1)
    area = xx * yy - xy * xy
    xx, yy = xx + MIP_KERNEL, yy + MIP_KERNEL
    dimming = (area / (xx * yy - xy * xy)).clamp(min=1e-6).sqrt()
    focal, (column, row) = camera.focal(size), camera.principal_point(size)
    return Splats(
        torch.stack([column - focal * x / z, row - focal * y / z], dim=1),
        torch.stack([xx, xy, yy], dim=1),
        torch.sigmoid(gaussians.opacity_logits[order]) * dimming,
        gaussians.colors[order].clamp(min=0),
        z,
    )


def near_to_far(depths: Float[Tensor, "n"]) -> Tensor:
    """Indices of the Gaussians in front of the camera in the order of `project_gaussians`."""
    order = torch.argsort(depths)
    return order[int((depths < NEAR).sum()) :]


def _rows_of_jacobian(
    x: Tensor, y: Tensor, z: Tensor, camera: Camera, size: Size
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Rows of the projection's Jacobian: screen x and y by world position, `[n, 3]` each."""
    height, width = height_width(size)
    focal = camera.focal(size)
    limit = SIDE_LIMIT / (2 * focal)
    column, row = camera.principal_point(size)
    # x / z and y / z of the image's centre.
    u0, v0 = (column - width / 2) / focal, (row - height / 2) / focal
    u = (x / z).clamp(u0 - limit * width, u0 + limit * width)[:, None]
    v = (y / z).clamp(v0 - limit * height, v0 + limit * height)[:, None]
    left, up, forward = camera.rotation.T
    step = (focal / z)[:, None]
    return step * (u * forward - left), step * (v * forward - up)


def composite_reference(splats: Splats, height: int, width: int) -> Float[Tensor, "5 h w"]:
    """Red, green, blue, alpha and depth, alpha-composited from near to far.

    The alpha of a splat at a pixel's centre is opacity * exp(-d^T C^-1 d / 2), at most
    `MAX_ALPHA`, and 0 below `MIN_ALPHA`. Takes memory for n x h x w numbers: for tests.
    """
    centers = splats.centers
    x = torch.arange(width).to(centers) + 0.5 - centers[:, 0, None]
    y = torch.arange(height).to(centers) + 0.5 - centers[:, 1, None]
    xx, xy, yy = (part[:, None, None] for part in splats.conics.unbind(1))
    dx, dy = x[:, None, :], y[:, :, None]
    distance = xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy
    alpha = splats.opacities[:, None, None] * torch.exp(-distance / 2)
    alpha = torch.where(alpha < MIN_ALPHA, 0, alpha.clamp(max=MAX_ALPHA))
    after = torch.cumprod(1 - alpha, dim=0)
    transmittance = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    features = [splats.colors, torch.ones_like(splats.depths)[:, None], splats.depths[:, None]]
    return torch.einsum("nc,nhw->chw", torch.cat(features, dim=1), transmittance * alpha)
