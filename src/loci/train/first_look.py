"""How a fuser begins: so that what it is shown can be heard from the first step.

As drawn by torch, positions are a thirtieth of what a patch says and the tokens that come out a
tenth of what attention was made for; a flow then learns for an hour before it listens.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.feed_forward import GatedFeedForward
from loci.objects.conditioning import Fuser
from loci.objects.dinov2 import DinoEmbedder
from loci.objects.pointmap_embedder import PointmapEmbedder

GATED = 0.6
"""Of silu(a) b with a and b standard normal, the root of the mean square."""


@torch.no_grad()
def begin_fuser(fuser: Fuser) -> None:
    """Positions become sines and cosines as large as the patches, and tokens come out with a mean
    square near 1."""
    for embedder in fuser.module_list:
        if isinstance(embedder, DinoEmbedder):
            backbone = embedder.backbone.config
            waves = plane_waves(backbone.grid, backbone.dim)
            embedder.backbone.pos_embed[0, 1:] = waves.flatten(1).T
        elif isinstance(embedder, PointmapEmbedder):
            grid = embedder.pos_embed.shape[-1]
            embedder.pos_embed[0] = plane_waves(grid, embedder.dim)
    for net in fuser.projection_nets:
        gated = cast(nn.Sequential, net)[1]
        assert isinstance(gated, GatedFeedForward)
        for layer in (gated.w1, gated.w3):
            layer.weight.normal_(std=layer.in_features**-0.5)
        gated.w2.weight.normal_(std=gated.w2.in_features**-0.5 / GATED)


def plane_waves(grid: int, width: int) -> Float[Tensor, "width grid grid"]:
    """Sines and cosines of column and row, from half a wave over the grid to four."""
    place = (torch.arange(grid) + 0.5) / grid
    angles = 2 * math.pi * 2 ** torch.linspace(-1, 2, width // 4)[:, None] * place
    waves = torch.cat([angles.sin(), angles.cos()])
    columns = waves[:, None, :].expand(-1, grid, -1)
    return torch.cat([columns, columns.mT])
