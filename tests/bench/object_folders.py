"""A folder of toy tables, as `loci data objects` would leave it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from loci.data.objects.dataset import SURFACE, write_object
from loci.data.objects.surface import GRID, pack
from tests.train.toy_objects import toy_object
from tests.train.toy_views import render_points

VIEWS, SIDE, COARSE = 3, 48, 16


def write_tables(folder: Path, seeds: Sequence[int], licence: str = "CC-BY-3.0") -> None:
    """A file for every seed; the same object for the same seed."""
    for seed in seeds:
        item = toy_object(seed, side=COARSE // 2, samples=SURFACE)
        grid = torch.zeros((GRID,) * 3, dtype=torch.bool)
        cells = ((item.surface[:, :3] + 0.5) * GRID).long().clamp(0, GRID - 1)
        grid[cells.unbind(1)] = True
        rng = torch.Generator().manual_seed(seed)
        views = [render_points(item.surface, rng, SIDE) for _ in range(VIEWS)]
        columns = zip(*views, strict=True)
        rgba, depth, fov, rotation, translation, scale = (torch.stack(c) for c in columns)
        arrays = {
            "rgba": rgba,
            "even": rgba[..., :3],
            "depth": depth,
            "fov": fov,
            "rotation": rotation,
            "translation": translation,
            "scale": scale,
            "surface": item.surface,
            "sdf": finer(item.sdf),
        }
        header = {
            "name": f"toy-{seed}",
            "title": f"Table {seed}",
            "category": "Toys",
            "source": "toys: table",
            "licence": licence,
            "author": "Nobody",
        }
        content = {name: tensor.numpy() for name, tensor in arrays.items()}
        content["occupancy"] = pack(grid.numpy())
        write_object(folder / f"toy-{seed}.safetensors", content, header)


def finer(sdf: Tensor) -> Tensor:
    """Distances of a grid of 16 on the grid of 64; each is stored in parts of its own voxel."""
    values = sdf.float()[None, None] * (GRID // COARSE)
    values = F.interpolate(values, (GRID + 1,) * 3, mode="trilinear", align_corners=True)
    return values[0, 0].round().clamp(-127, 127).to(torch.int8)
