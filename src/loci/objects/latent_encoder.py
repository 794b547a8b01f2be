"""What voxels hold to latents: only needed to train what generates and decodes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.norms import layer_norm
from loci.layers.sparse import Voxels
from loci.layers.weights import load_pretrained, save_pretrained
from loci.objects.decoder_torso import DecoderTorso, TorsoConfig
from loci.objects.voxel_features import CHANNELS

LOG_VARIANCE = (-12.0, 4.0)
FIRST_LOG_VARIANCE = -4.0


@dataclass(frozen=True)
class LatentEncoderConfig:
    """Sizes: those of the small model. `torso.channels` is the width of a voxel's features."""

    torso: TorsoConfig = TorsoConfig(channels=CHANNELS, dim=96, blocks=2, heads=3, resolution=32)
    latent_channels: int = 8


class LatentEncoder(DecoderTorso):
    """The decoders' torso the other way round: features in, mean and spread of latents out."""

    def __init__(self, config: LatentEncoderConfig | None = None) -> None:
        config = config or LatentEncoderConfig()
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
    def from_pretrained(cls, source: str | Path) -> LatentEncoder:
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, LatentEncoderConfig, source)


def kl(mean: Float[Tensor, "n d"], log_variance: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Divergence from the standard normal distribution, mean over voxels and channels, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
