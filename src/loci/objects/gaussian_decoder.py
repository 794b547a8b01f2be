"""Latents to Gaussians: a fixed number around every voxel."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.geometry.gaussians import Gaussians
from loci.layers.norms import layer_norm
from loci.layers.sparse import Voxels
from loci.layers.weights import load_pretrained, save_pretrained
from loci.objects.decoder_torso import DecoderTorso, TorsoConfig


@dataclass(frozen=True)
class GaussianDecoderConfig:
    """Sizes and activations. The defaults are the released model (SAM 3D Objects, 9).

    `reach` is how far from its voxel's centre a Gaussian may stand, in half voxels;
    `scale_start` and `opacity_start` are what a raw 0 stands for; `scale_floor` is the smallest
    standard deviation. Lengths are in the object's frame.
    """

    torso: TorsoConfig = field(default_factory=TorsoConfig)
    gaussians: int = 32
    reach: float = 1.5
    scale_start: float = 0.004
    scale_floor: float = 0.0009
    opacity_start: float = 0.1
    rotation_rate: float = 0.1


class RawGaussians(NamedTuple):
    """The head's channels, `[voxels, gaussians, k]` each, in their released order."""

    offset: Tensor
    harmonics: Tensor
    scale: Tensor
    rotation: Tensor
    opacity: Tensor


RAW_WIDTHS = (3, 3, 3, 4, 1)
"""Channels of one Gaussian by meaning, as in `RawGaussians`."""


def perturbation(count: int, reach: float) -> Float[Tensor, "count 3"]:
    """Offsets that spread a voxel's Gaussians before anything is learned.

    Hammersley points of the unit cube, carried through the inverse of the decoder's tanh.
    """
    points = [(g / count, radical_inverse(g, 2), radical_inverse(g, 3)) for g in range(count)]
    return torch.tensor([[math.atanh((2 * p - 1) / reach) for p in point] for point in points])


def radical_inverse(number: int, base: int) -> float:
    """The digits of `number` mirrored at the point: 6 = 110 in base 2 becomes 0.011 = 0.375."""
    value, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        value += digit * place
    return value


class GaussianDecoder(DecoderTorso):
    """The torso, a norm and a linear layer; `gaussians` gives the channels their meaning."""

    offset_perturbation: Tensor

    def __init__(self, config: GaussianDecoderConfig | None = None) -> None:
        config = config or GaussianDecoderConfig()
        super().__init__(config.torso)
        self.config = config
        self.out_layer = nn.Linear(config.torso.dim, config.gaussians * sum(RAW_WIDTHS))
        spread = perturbation(config.gaussians, config.reach)
        self.register_buffer("offset_perturbation", spread)

    def forward(self, latents: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n channels"]:
        """Raw channels of every voxel; float32."""
        return self.out_layer(layer_norm(self.tokens(latents, voxels), 1e-5)).float()

    def split(self, raw: Float[Tensor, "n channels"]) -> RawGaussians:
        """The channels by meaning; within one, the Gaussians follow each other."""
        count = self.config.gaussians
        parts = raw.split([count * width for width in RAW_WIDTHS], dim=1)
        return RawGaussians(*(part.unflatten(1, (count, -1)) for part in parts))

    def gaussians(self, raw: Float[Tensor, "n channels"], voxels: Voxels) -> list[Gaussians]:
        """The Gaussians of each item that has voxels, voxel by voxel."""
        c, split = self.config, self.split(raw)
        step = torch.tanh(split.offset + self.offset_perturbation.float())
        centre = (voxels.coords[:, None, 1:].float() + 0.5) / c.torso.resolution - 0.5
        start = math.log(math.expm1(c.scale_start))  # softplus^-1
        scales = torch.sqrt(F.softplus(split.scale + start) ** 2 + c.scale_floor**2)
        identity = split.rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
        logit = math.log(c.opacity_start / (1 - c.opacity_start))
        parts = (
            centre + step * (0.5 * c.reach / c.torso.resolution),
            split.harmonics,
            scales,
            c.rotation_rate * split.rotation + identity,
            (split.opacity + logit).squeeze(-1),
        )
        return [Gaussians(*(part[rows].flatten(0, 1) for part in parts)) for rows in voxels.items]

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "GaussianDecoder":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, GaussianDecoderConfig, source)

    def decode(self, latents: Float[Tensor, "n c"], voxels: Voxels) -> list[Gaussians]:
        """Denormalised latents to the Gaussians of each item."""
        return self.gaussians(self(latents, voxels), voxels)
