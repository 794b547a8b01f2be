"""The SLAT encoder: features of a known surface in each voxel to its latents, for training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from loci.io.weights import load_pretrained, save_pretrained
from loci.nn.norms import layer_norm
from loci.nn.sparse.voxels import Voxels
from loci.objects.models.slat_decoders import DecoderTorso, TorsoConfig

CELL_WIDTHS = {"present": 1, "place": 3, "normal": 3, "color": 3}
"""Channels of each of the eight cells of a voxel."""
CELLS, CORNERS = 8, 27
CHANNELS = CELLS * sum(CELL_WIDTHS.values()) + CORNERS
SDF_REACH = 2.0
"""Signed distances are clipped at this many cells."""


def surface_features(
    surface: Float[Tensor, "m 9"], owner: Int[Tensor, "m"], cell: Int[Tensor, "m"], count: int
) -> Float[Tensor, "count 80"]:
    """Mean position, normal and colour in each of the eight cells of every voxel; 0 where empty.

    Args:
        surface: samples: position in the cell, unit normal, colour in [0, 1].
        owner: row of each sample's voxel.
        cell: its cell there, as from `cells`.
        count: number of voxels.
    """
    place, normal, color = surface.split(3, dim=1)
    values = torch.cat([torch.ones_like(place[:, :1]), place, normal, 2 * color - 1], dim=1)
    total = values.new_zeros(count * CELLS, values.shape[1])
    total = total.index_add(0, owner * CELLS + cell, values)
    samples = total[:, :1].clamp(min=1)
    return torch.cat([total[:, :1].clamp(max=1), total[:, 1:] / samples], dim=1).view(count, -1)


def cells(
    points: Float[Tensor, "m 3"], resolution: int
) -> tuple[Int[Tensor, "m 3"], Int[Tensor, "m"], Float[Tensor, "m 3"]]:
    """The voxel of each point in the object frame, its cell in there, and its position in the cell.

    The cell is 4 x + 2 y + z of the halves, the order of `Voxels.finer`; the position is in
    [-1, 1]. Points outside [-0.5, 0.5]^3 are clamped to it.
    """
    fine = (points + 0.5).clamp(0, 1) * (2 * resolution)
    at = fine.floor().clamp(max=2 * resolution - 1)
    half = at.long() % 2
    return at.long() // 2, 4 * half[:, 0] + 2 * half[:, 1] + half[:, 2], 2 * (fine - at) - 1


def corner_distances(
    sdf: Shaped[Tensor, "s s s"], coords: Int[Tensor, "n 3"], steps: int = 1
) -> Float[Tensor, "n 27"]:
    """Signed distances at the 3 x 3 x 3 corners of the cells of every voxel, in cells, clipped.

    `sdf` is sampled at the corners of the grid of cells, in units of a cell's side / `steps`.
    """
    offsets = torch.cartesian_prod(*(torch.arange(3, device=coords.device),) * 3)
    at = 2 * coords[:, None] + offsets
    return (sdf[at.unbind(-1)].float() / steps).clamp(-SDF_REACH, SDF_REACH)


def cell_corners(corners: Float[Tensor, "n 27"]) -> Float[Tensor, "n8 8"]:
    """The eight corners of every cell, x fastest, as in the mesh decoder."""
    halves = torch.cartesian_prod(*(torch.arange(2, device=corners.device),) * 3)
    steps = halves.flip(1)
    at = halves[:, None] + steps
    return corners[:, (at * at.new_tensor([9, 3, 1])).sum(-1)].flatten(0, 1)


LOG_VARIANCE = (-12.0, 4.0)
FIRST_LOG_VARIANCE = -4.0


@dataclass(frozen=True)
class SlatEncoderConfig:
    """Sizes. The defaults are those of `home`; `torso.channels` is the width of the features."""

    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("LatentEncoderConfig",)

    torso: TorsoConfig = TorsoConfig(channels=CHANNELS, dim=96, blocks=2, heads=3, resolution=32)
    latent_channels: int = 8


class SlatEncoder(DecoderTorso):
    """The torso of the decoders, from features to mean and variance of the latents."""

    def __init__(self, config: SlatEncoderConfig | None = None) -> None:
        config = config or SlatEncoderConfig()
        super().__init__(config.torso)
        self.config = config
        self.out_layer = nn.Linear(config.torso.dim, 2 * config.latent_channels)
        with torch.no_grad():
            self.out_layer.bias[config.latent_channels :] = FIRST_LOG_VARIANCE

    def forward(
        self, features: Float[Tensor, "n c"], voxels: Voxels
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and log-variance of every voxel's latents; float32."""
        out = self.out_layer(layer_norm(self.tokens(features, voxels), 1e-5)).float()
        mean, log_variance = out.chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> SlatEncoder:
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, SlatEncoderConfig, source)


def kl(mean: Float[Tensor, "n d"], log_variance: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """KL divergence from the standard normal, mean over voxels and channels, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
