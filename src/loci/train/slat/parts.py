"""The three networks of stage 2's autoencoder as one module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.geometry.gaussians.gaussians import Gaussians
from loci.nn.sparse.voxels import Voxels
from loci.objects.config import home
from loci.objects.models.slat_decoders import (
    GaussianDecoder,
    GaussianDecoderConfig,
    MeshDecoder,
    MeshDecoderConfig,
)
from loci.objects.models.slat_encoder import SlatEncoder, SlatEncoderConfig

HOME = home().parts


@dataclass(frozen=True)
class SlatVAEConfig:
    """Sizes: those of the small model `home`."""

    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("CodecConfig",)

    encoder: SlatEncoderConfig = SlatEncoderConfig()
    gaussians: GaussianDecoderConfig = HOME.gaussian_decoder
    mesh: MeshDecoderConfig = HOME.mesh_decoder


class SlatVAE(nn.Module):
    """`encoder`, `gaussians` and `mesh`, trained together and saved apart."""

    def __init__(self, config: SlatVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SlatVAEConfig()
        self.encoder = SlatEncoder(config.encoder)
        self.gaussians = GaussianDecoder(config.gaussians)
        self.mesh = MeshDecoder(config.mesh)

    def forward(
        self, features: Float[Tensor, "n c"], voxels: Voxels, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, list[Gaussians], Tensor]:
        """Through latents drawn with `rng`, a generator on the CPU.

        Returns:
            Mean and log-variance of the latents `[n, c]`, the Gaussians of every object, and the
            mesh decoder's channels on the voxels' children.
        """
        mean, log_variance = self.encoder(features, voxels)
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        latents = mean + (0.5 * log_variance).exp() * noise
        channels, _ = self.mesh(latents, voxels)
        return mean, log_variance, self.gaussians.decode(latents, voxels), channels

    def save_pretrained(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write `latent_encoder`, `gaussian_decoder` and `mesh_decoder` into a folder."""
        self.encoder.save_pretrained(folder / "latent_encoder", dtype)
        self.gaussians.save_pretrained(folder / "gaussian_decoder", dtype)
        self.mesh.save_pretrained(folder / "mesh_decoder", dtype)

    @classmethod
    def from_pretrained(cls, folder: Path) -> SlatVAE:
        """Load what `save_pretrained` wrote; in evaluation mode, in float32.

        Raises:
            LociError: when a part is missing, damaged or does not fit.
        """
        encoder = SlatEncoder.from_pretrained(folder / "latent_encoder")
        gaussians = GaussianDecoder.from_pretrained(folder / "gaussian_decoder")
        mesh = MeshDecoder.from_pretrained(folder / "mesh_decoder")
        parts = cls(SlatVAEConfig(encoder.config, gaussians.config, mesh.config))
        parts.encoder, parts.gaussians, parts.mesh = encoder, gaussians, mesh
        return parts.float().eval()
