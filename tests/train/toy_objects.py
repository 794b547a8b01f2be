"""Objects made of a few coloured boxes, as stage 2 learns from them."""

from functools import cache

import torch
from torch import Tensor

from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import SH_BAND_0, Gaussians
from loci.geometry.gaussians.render import render_gaussians
from loci.objects.placement.pose import MatrixPose
from loci.train.slat.vae_data import SDF_STEPS, SlatDataset, SlatObject, SlatView
from loci.train.structure.scenes import ObjectView


def toy_object(seed: int, side: int = 16, samples: int = 4096) -> SlatObject:
    """A slab on four legs, of random sizes and colours, on a grid of `side` voxels."""
    rng = torch.Generator().manual_seed(seed)
    low, high, colors = _table(rng)
    surface = _samples(low, high, colors, samples, rng)
    axis = torch.arange(2 * side + 1) / (2 * side) - 0.5
    corners = torch.cartesian_prod(axis, axis, axis)
    steps = _distance(corners, low, high) * (2 * side * SDF_STEPS)
    sdf = steps.round().clamp(-127, 127).to(torch.int8).view((2 * side + 1,) * 3)
    dense = torch.cat([surface, _samples(low, high, colors, 4 * samples, rng)])[:, :3]
    coords = ((dense + 0.5) * side).long().clamp(0, side - 1).unique(dim=0)
    return SlatObject(coords, surface, sdf)


def _table(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper corners `[5, 3]` and colours `[5, 3]`."""
    width, depth, thick, leg = (torch.rand(4, generator=rng) * 0.15 + 0.1).tolist()
    boxes = [(-0.2 - width, 0.2 + width, -0.1 - depth, 0.1 + depth, 0.3 - thick, 0.3)]
    for x in (-0.2 - width, 0.2 + width - leg):
        for y in (-0.1 - depth, 0.1 + depth - leg):
            boxes.append((x, x + leg, y, y + leg, -0.4, 0.3 - thick))
    corners = torch.tensor(boxes)
    return corners[:, ::2], corners[:, 1::2], torch.rand(5, 3, generator=rng)


def _distance(points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Signed distance to the nearest box, negative inside."""
    beyond = torch.maximum(low - points[:, None], points[:, None] - high)
    outside = beyond.clamp(min=0).norm(dim=-1)
    return (outside + beyond.amax(dim=-1).clamp(max=0)).amin(dim=1)


def _samples(low: Tensor, high: Tensor, colors: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Uniform samples of what is not inside another box, `[count, 9]`."""
    size = high - low
    areas = torch.stack([size[:, (i + 1) % 3] * size[:, (i + 2) % 3] for i in range(3)], dim=1)
    areas = torch.stack([areas, areas], dim=2).flatten()  # box, axis, side
    chosen = torch.multinomial(areas, 3 * count, replacement=True, generator=rng)
    box, axis, upper = chosen // 6, chosen // 2 % 3, chosen % 2
    points = low[box] + torch.rand(3 * count, 3, generator=rng) * size[box]
    rows = torch.arange(3 * count)
    points[rows, axis] = torch.where(upper == 1, high[box, axis], low[box, axis])
    normals = torch.zeros_like(points)
    normals[rows, axis] = 2.0 * upper - 1
    outside = _distance(points + 1e-3 * normals, low, high) > 0
    return torch.cat([points, normals, colors[box]], dim=1)[outside][:count]


def toy_set(count: int, side: int = 8, views: int = 2, pixels: int = 32) -> SlatDataset:
    """Some of them with renders from around: drawn as many small splats."""
    items = [toy_object(seed, side, samples=1024) for seed in range(count)]

    def view_of(number: int, view: int) -> SlatView:
        camera = Camera.orbit(50 + 140 * view + 10 * number, 25, 2.2, 40)
        place, _, color = items[number].surface.split(3, dim=1)
        splats = Gaussians(
            place,
            (color - 0.5) / SH_BAND_0,
            torch.full_like(place, 0.02),
            torch.tensor([1.0, 0, 0, 0]).repeat(len(place), 1),
            torch.full((len(place),), 4.0),
        )
        drawn = render_gaussians(splats, camera, pixels)
        even = drawn.color / drawn.alpha.clamp(min=1e-3)
        depth = torch.where(drawn.alpha > 0.5, drawn.depth, torch.inf)
        placement = MatrixPose(camera.rotation, camera.translation, torch.tensor(1.0))
        seen = ObjectView(0.8 * even, drawn.alpha[None], depth, camera.fov, placement, -0.4)
        return SlatView(seen, even)

    return SlatDataset(items, views, cache(view_of))
