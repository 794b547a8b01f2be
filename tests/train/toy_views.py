"""Objects of a few boxes, seen from around as points: enough to tell whether a picture, a shape
and a pose belong together."""

import math

import torch
from torch import Tensor

from loci.geometry.camera import Camera
from loci.objects.placement.pose import MatrixPose
from loci.train.structure.data import StructureObject, floor_height
from loci.train.structure.scenes import ObjectViews
from tests.train.toy_objects import toy_object


def toy_viewed(seed: int, views: int = 2, side: int = 64, resolution: int = 16) -> StructureObject:
    """A table that lacks one leg, so that it is not its own mirror image, from random places."""
    item = toy_object(seed, side=resolution, samples=12_000)
    occupancy = torch.zeros((resolution,) * 3, dtype=torch.bool)
    occupancy[item.coords.unbind(1)] = True
    half = resolution // 2
    occupancy[half:, half:, :half] = False
    surface = item.surface[~((item.surface[:, :3] * torch.tensor([-1, -1, 1]) < 0).all(dim=1))]
    rng = torch.Generator().manual_seed(seed)
    renders = [render_points(surface, rng, side) for _ in range(views)]
    rgba, depth, fov, rotation, translation, scale = (
        torch.stack(column) for column in zip(*renders, strict=True)
    )
    placement = MatrixPose(rotation, translation, scale)
    shown = ObjectViews(lambda n: (rgba[n], depth[n]), fov, placement, floor_height(occupancy))
    return StructureObject(f"table {seed}", shown, occupancy)


def render_points(surface: Tensor, rng: torch.Generator, side: int) -> tuple[Tensor, ...]:
    """RGBA, depth, field of view, rotation, translation and scale of a random view."""
    azimuth, elevation, width, size = torch.rand(4, generator=rng).tolist()
    fov, scale = 30 + 40 * width, 0.3 + size
    distance = 0.9 * scale / math.tan(math.radians(fov) / 2) + scale / 2
    aside = (0.1 * torch.randn(3, generator=rng)).tolist()
    camera = Camera.orbit(360 * azimuth, 50 * elevation, distance / scale, fov, aside)
    x, y, z = camera.project(surface[:, :3], side).unbind(1)
    column, row = x.long().clamp(0, side - 1), y.long().clamp(0, side - 1)
    flat = row * side + column
    nearest = torch.full((side * side,), torch.inf).scatter_reduce(0, flat, z, "amin")
    first = z <= nearest[flat] + 1e-6
    color = torch.zeros(side * side, 3)
    color[flat[first]] = surface[first, 6:]
    alpha = nearest.isfinite().float()[:, None]
    rgba = (torch.cat([color, alpha], dim=1) * 255).to(torch.uint8)
    return (
        rgba.view(side, side, 4),
        (nearest * scale).view(side, side).half(),
        torch.tensor(fov),
        camera.rotation,
        camera.translation * scale,
        torch.tensor(scale),
    )
