"""Small pictures of voxels, for the sheets of a training run."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LIGHT = (0.05, -0.4, 0.9)


def draw_voxels(
    occupancies: Bool[Tensor, "b r r r"], size: int = 96, azimuth: float = 30, elevation: float = 25
) -> Float[Tensor, "b 3 h w"]:
    """Objects of the frame z up, front -y, seen from the front right above along parallel rays.

    Grey values in [-1, 1], as sheets take them; white where there is nothing.
    """
    across, up, forward = _axes(azimuth, elevation)
    span = torch.linspace(-0.72, 0.72, size)
    start = span[None, :, None] * across - span[:, None, None] * up
    depths = torch.linspace(-0.87, 0.87, 4 * occupancies.shape[-1])
    points = start[:, :, None] + depths[:, None] * forward
    pictures = [_picture(shape, points, forward) for shape in occupancies]
    return torch.stack(pictures)[:, None].expand(-1, 3, -1, -1)


def _picture(shape: Bool[Tensor, "r r r"], points: Tensor, forward: Tensor) -> Float[Tensor, "h w"]:
    side = shape.shape[0]
    at = ((points + 0.5) * side).floor().long()
    within = ((at >= 0) & (at < side)).all(dim=-1)
    hit = within & shape[at.clamp(0, side - 1).unbind(-1)]
    first = hit.float().argmax(dim=-1, keepdim=True)
    entered = points.take_along_dim(first[..., None], dim=2)[:, :, 0]
    # The face of the voxel that the ray came in by.
    local = ((entered + 0.5) * side).frac() - 0.5
    side_of = -forward.sign() * 0.5
    axis = ((local - side_of).abs() / forward.abs().clamp(min=1e-3)).argmin(dim=-1)
    light = torch.nn.functional.normalize(torch.tensor(LIGHT), dim=0)
    shade = 0.2 + 0.8 * (-forward.sign() * light).clamp(min=0)
    near = 0.5 - 0.35 * (entered @ forward)
    gray = shade[axis] * (0.6 + 0.4 * near)
    return torch.where(hit.any(dim=-1), 2 * gray - 1, 1.0).clamp(-1, 1)


def _axes(azimuth: float, elevation: float) -> tuple[Tensor, Tensor, Tensor]:
    """Right, up and forward of a camera at that place, in the object's frame."""
    a, e = math.radians(azimuth), math.radians(elevation)
    across = torch.tensor([math.cos(a), math.sin(a), 0.0])
    forward = torch.tensor([-math.cos(e) * math.sin(a), math.cos(e) * math.cos(a), -math.sin(e)])
    return across, torch.linalg.cross(across, forward), forward
