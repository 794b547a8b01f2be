"""The three networks of stage 2's autoencoder as one module."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from loci.objects.decoder_torso import TorsoConfig
from loci.objects.gaussian_decoder import GaussianDecoder, GaussianDecoderConfig
from loci.objects.latent_encoder import LatentEncoder, LatentEncoderConfig
from loci.objects.mesh_decoder import MeshDecoder, MeshDecoderConfig


def _home_torso(blocks: int) -> TorsoConfig:
    return TorsoConfig(dim=96, blocks=blocks, heads=3, resolution=32)


@dataclass(frozen=True)
class CodecConfig:
    """Sizes: those of the small model `home`."""

    encoder: LatentEncoderConfig = field(default_factory=LatentEncoderConfig)
    gaussians: GaussianDecoderConfig = field(
        default_factory=lambda: GaussianDecoderConfig(
            _home_torso(3),
            gaussians=8,
            scale_start=0.006,
            opacity_start=0.8,
            rotation_rate=1.0,
        )
    )
    mesh: MeshDecoderConfig = field(
        default_factory=lambda: MeshDecoderConfig(
            _home_torso(2), narrowing=(4,), norm_groups=8, closed=True
        )
    )


class CodecParts(nn.Module):
    """`encoder`, `gaussians` and `mesh`, trained together and saved apart."""

    def __init__(self, config: CodecConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CodecConfig()
        self.encoder = LatentEncoder(config.encoder)
        self.gaussians = GaussianDecoder(config.gaussians)
        self.mesh = MeshDecoder(config.mesh)

    def save_pretrained(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write `latent_encoder`, `gaussian_decoder` and `mesh_decoder` into a folder."""
        self.encoder.save_pretrained(folder / "latent_encoder", dtype)
        self.gaussians.save_pretrained(folder / "gaussian_decoder", dtype)
        self.mesh.save_pretrained(folder / "mesh_decoder", dtype)

    @classmethod
    def from_pretrained(cls, folder: Path) -> CodecParts:
        """Load what `save_pretrained` wrote; in evaluation mode, in float32.

        Raises:
            LociError: when a part is missing, damaged or does not fit.
        """
        encoder = LatentEncoder.from_pretrained(folder / "latent_encoder")
        gaussians = GaussianDecoder.from_pretrained(folder / "gaussian_decoder")
        mesh = MeshDecoder.from_pretrained(folder / "mesh_decoder")
        parts = cls(CodecConfig(encoder.config, gaussians.config, mesh.config))
        parts.encoder, parts.gaussians, parts.mesh = encoder, gaussians, mesh
        return parts.float().eval()
