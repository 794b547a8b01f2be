"""Tokens of a pointmap: where the visible surface lies."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.layers.learned import learned
from loci.objects.vit_block import VitBlock


@dataclass(frozen=True)
class PointmapEmbedderConfig:
    """Sizes. The defaults are the released embedder (SAM 3D Objects, 3.2)."""

    input_size: int = 256
    patch: int = 8
    dim: int = 512
    heads: int = 16
    mlp_ratio: float = 2


class PointmapEmbedder(nn.Module):
    """One transformer block inside every window of pixels; its class token is the window's token.

    Points that are not finite have a learned embedding of their own.
    """

    def __init__(self, config: PointmapEmbedderConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PointmapEmbedderConfig()
        grid = c.input_size // c.patch
        self.point_proj = nn.Linear(3, c.dim)
        self.invalid_xyz_token = nn.Parameter(torch.zeros(c.dim))
        self.cls_token = learned(1, 1, c.dim)
        self.pos_embed_window = learned(1, 1 + c.patch**2, c.dim)
        self.pos_embed = learned(1, c.dim, grid, grid)
        self.blocks = nn.ModuleList([VitBlock(c.dim, c.heads, c.mlp_ratio, layer_scale=False)])

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def token_count(self) -> int:
        """Tokens of one pointmap."""
        return (self.config.input_size // self.config.patch) ** 2

    def forward(self, pointmaps: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of normalised pointmaps, row by row; NaN or infinite points are invalid."""
        size = self.config.input_size
        pixels = self._embedded(F.interpolate(pointmaps, (size, size), mode="nearest"))
        windows = self._windows(pixels)
        first = self.cls_token.expand(len(windows), -1, -1)
        x = torch.cat([first, windows], dim=1) + self.pos_embed_window
        for block in self.blocks:
            x = block(x)
        tokens = x[:, 0].unflatten(0, (len(pointmaps), -1))
        return tokens + self._positions()

    def _embedded(self, pointmaps: Tensor) -> Tensor:
        points = pointmaps.movedim(1, -1)
        finite = points.isfinite()
        valid = finite.all(dim=-1, keepdim=True)
        embedded = self.point_proj(torch.where(finite, points, 0.0))
        return torch.where(valid, embedded, self.invalid_xyz_token)

    def _windows(self, pixels: Float[Tensor, "b h w d"]) -> Float[Tensor, "bn p d"]:
        p = self.config.patch
        tiles = pixels.unflatten(1, (-1, p)).unflatten(3, (-1, p))
        return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _positions(self) -> Float[Tensor, "1 n d"]:
        grid = self.config.input_size // self.config.patch
        positions = self.pos_embed
        if positions.shape[-1] != grid:
            positions = F.interpolate(positions, (grid, grid), mode="bilinear")
        return positions.flatten(2).transpose(1, 2)
