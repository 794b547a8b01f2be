"""Initialisation of a fuser, and the pretrained backbone of its picture embedder.

With PyTorch's defaults, position embeddings are 30 times smaller than patch embeddings, and the
tokens that come out 10 times smaller than attention expects; a flow then ignores them for an hour
of training.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.nn.attention import GatedFeedForward
from loci.objects.models.condition import EmbedderFuser, PointmapEmbedder
from loci.objects.models.dinov2 import DinoEmbedder, LiteEmbedding
from loci.train.backbone import load_lite_weights

GATED = 0.6
"""Root of the mean square of silu(a) b, with a and b standard normal."""


@torch.no_grad()
def initialize_fuser(fuser: EmbedderFuser) -> None:
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


def load_pretrained_backbone(fuser: EmbedderFuser) -> None:
    """Give every embedder with the lite stem the published weights, if there are any such.

    Raises:
        LociError: as `load_lite`, or when the package is missing.
    """
    for embedder in fuser.module_list:
        stem = embedder.backbone.patch_embed if isinstance(embedder, DinoEmbedder) else None
        if isinstance(stem, LiteEmbedding):
            load_lite_weights(stem.features)
