"""Random compositions of boxes, balls, tubes and rings: shapes that no list of furniture has."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rng = torch.Generator
THINNEST = 0.035
"""Least thickness in units of the object cube: just over a voxel of 32, or it would have holes."""


def primitive_shape(resolution: int, rng: Rng) -> Bool[Tensor, "r r r"]:
    """The voxels that the surface of one to six joined primitives passes through."""
    axis = torch.linspace(-0.5, 0.5, resolution + 1)
    corners = torch.cartesian_prod(axis, axis, axis)
    distance = torch.full((len(corners),), math.inf)
    for _ in range(int(torch.randint(1, 7, (), generator=rng))):
        distance = torch.minimum(distance, _primitive(corners, rng))
    inside = (distance < 0).view((resolution + 1,) * 3).float()
    # Nothing touches the faces of the cube, so that every surface is closed.
    inside[[0, -1]] = inside[:, [0, -1]] = inside[:, :, [0, -1]] = 0
    return crossed(inside)


def crossed(inside: Float[Tensor, "s s s"]) -> Bool[Tensor, "r r r"]:
    """Voxels of which some corners are inside (1) and some are not (0)."""
    pool = torch.nn.functional.max_pool3d
    some = pool(inside[None, None], 2, stride=1)[0, 0]
    others = pool(1 - inside[None, None], 2, stride=1)[0, 0]
    return (some > 0) & (others > 0)


def _primitive(points: Float[Tensor, "n 3"], rng: Rng) -> Float[Tensor, "n"]:
    """Distance to one primitive, negative inside; exact enough near its surface."""
    centre = 0.6 * torch.rand(3, generator=rng) - 0.3
    half = THINNEST / 2 + 0.45 * torch.rand(3, generator=rng) ** 1.5
    local = _turned(points - centre, rng)
    kind = int(torch.randint(4, (), generator=rng))
    if kind == 0:
        return (local.abs() - half).amax(dim=1)
    if kind == 1:
        return ((local / half).norm(dim=1) - 1) * half.amin()
    across, along = local[:, :2].norm(dim=1), local[:, 2].abs()
    if kind == 2:  # A tube, wider at one end
        radius = half[0] * (1 + (half[1] - half[0]) / half.sum() * local[:, 2] / half[2])
        return torch.maximum(across - radius, along - half[2])
    thick = THINNEST / 2 + 0.06 * torch.rand((), generator=rng)
    return torch.stack([across - half[0].clamp(min=0.1), along], dim=1).norm(dim=1) - thick


def _turned(points: Float[Tensor, "n 3"], rng: Rng) -> Float[Tensor, "n 3"]:
    """Upright or lying, and half the time turned about the vertical."""
    if torch.rand((), generator=rng) < 0.5:
        angle = float(torch.rand((), generator=rng)) * math.pi
        cos, sin = math.cos(angle), math.sin(angle)
        points = points @ points.new_tensor([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    order = torch.randperm(3, generator=rng) if torch.rand((), generator=rng) < 0.4 else None
    return points if order is None else points[:, order]
