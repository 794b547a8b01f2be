"""Decoders of the structured latents (SLAT): to Gaussians, and to a mesh.

Both begin with the same torso, a transformer with windowed attention over the voxels.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.from_features import CHANNELS, features_to_mesh
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.voxels import voxel_centers
from loci.io.weights import load_pretrained, save_pretrained
from loci.nn.attention import FeedForward
from loci.nn.embeddings import sincos_embedding
from loci.nn.norms import layer_norm
from loci.nn.sparse.attention import VoxelAttention
from loci.nn.sparse.conv import SparseConv1, SparseConv3
from loci.nn.sparse.voxels import Groups, SparseGroupNorm, Voxels, subdivide

EPS = 1e-6


@dataclass(frozen=True)
class TorsoConfig:
    """Sizes. The defaults are those of SAM 3D Objects as published."""

    channels: int = 8
    dim: int = 768
    blocks: int = 12
    heads: int = 12
    mlp_ratio: float = 4
    window: int = 8
    resolution: int = 64


class WindowBlock(nn.Module):
    """Attention within groups of voxels and feed-forward, each after a norm without weights."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.attn = VoxelAttention(dim, heads, norm=False)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio))

    def forward(self, feats: Float[Tensor, "n d"], groups: Groups) -> Float[Tensor, "n d"]:
        feats = feats + self.attn(layer_norm(feats, EPS), groups)
        return feats + self.mlp(layer_norm(feats, EPS))


class DecoderTorso(nn.Module):
    """Latents to tokens: a linear layer, positions, and blocks whose windows shift by half a side.

    Decoders inherit from it because the published files have its weights without a prefix.
    """

    def __init__(self, config: TorsoConfig) -> None:
        super().__init__()
        self.torso = config
        self.input_layer = nn.Linear(config.channels, config.dim)
        self.blocks = nn.ModuleList(
            WindowBlock(config.dim, config.heads, config.mlp_ratio) for _ in range(config.blocks)
        )

    def tokens(self, latents: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n d"]:
        """A token for every voxel, in the type of the weights.

        Raises:
            ValueError: when latents and voxels differ in number.
        """
        if latents.shape[0] != len(voxels):
            raise ValueError(f"{latents.shape[0]} latents for {len(voxels)} voxels")
        x = self.input_layer(latents.to(self.input_layer.weight.dtype))
        x = x + sincos_embedding(voxels.coords[:, 1:], self.torso.dim).to(x.dtype)
        side = self.torso.window
        for i, block in enumerate(self.blocks):
            x = block(x, voxels.windows(side, shift=side // 2 if i % 2 else 0))
        return x


@dataclass(frozen=True)
class GaussianDecoderConfig:
    """Sizes and activations. The defaults are those of SAM 3D Objects as published.

    `reach` is the largest offset of a Gaussian from its voxel's centre, in half voxels;
    `scale_start` and `opacity_start` are the values for a raw 0; `scale_floor` is the smallest
    standard deviation. Lengths are in the object frame.
    """

    torso: TorsoConfig = field(default_factory=TorsoConfig)
    gaussians: int = 32
    reach: float = 1.5
    scale_start: float = 0.004
    scale_floor: float = 0.0009
    opacity_start: float = 0.1
    rotation_rate: float = 0.1


class RawGaussians(NamedTuple):
    """The channels of the head, `[voxels, gaussians, k]` each, in their published order."""

    offset: Tensor
    harmonics: Tensor
    scale: Tensor
    rotation: Tensor
    opacity: Tensor


RAW_WIDTHS = (3, 3, 3, 4, 1)
"""Channels per Gaussian of each field of `RawGaussians`."""


def perturbation(count: int, reach: float) -> Float[Tensor, "count 3"]:
    """Initial offsets that distribute a voxel's Gaussians.

    Hammersley points of the unit cube, mapped through the inverse of the decoder's tanh.
    """
    points = [(g / count, radical_inverse(g, 2), radical_inverse(g, 3)) for g in range(count)]
    return torch.tensor([[math.atanh((2 * p - 1) / reach) for p in point] for point in points])


def radical_inverse(number: int, base: int) -> float:
    """The van der Corput sequence: 6 = 110 in base 2 becomes 0.011 = 0.375."""
    value, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        value += digit * place
    return value


class GaussianDecoder(DecoderTorso):
    """The torso, a norm and a linear layer; `gaussians` applies the activations."""

    offset_perturbation: Tensor

    def __init__(self, config: GaussianDecoderConfig | None = None) -> None:
        config = config or GaussianDecoderConfig()
        super().__init__(config.torso)
        self.config = config
        self.out_layer = nn.Linear(config.torso.dim, config.gaussians * sum(RAW_WIDTHS))
        offsets = perturbation(config.gaussians, config.reach)
        self.register_buffer("offset_perturbation", offsets)

    def forward(self, latents: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n channels"]:
        """Raw channels of every voxel; float32."""
        return self.out_layer(layer_norm(self.tokens(latents, voxels), 1e-5)).float()

    def split(self, raw: Float[Tensor, "n channels"]) -> RawGaussians:
        """The channels by field; those of one field are ordered by Gaussian."""
        count = self.config.gaussians
        parts = raw.split([count * width for width in RAW_WIDTHS], dim=1)
        return RawGaussians(*(part.unflatten(1, (count, -1)) for part in parts))

    def gaussians(self, raw: Float[Tensor, "n channels"], voxels: Voxels) -> list[Gaussians]:
        """The Gaussians of each item that has voxels, voxel by voxel."""
        c, split = self.config, self.split(raw)
        offset = torch.tanh(split.offset + self.offset_perturbation.float())
        center = voxel_centers(voxels.coords[:, None, 1:], c.torso.resolution)
        start = math.log(math.expm1(c.scale_start))  # softplus^-1
        scales = torch.sqrt(F.softplus(split.scale + start) ** 2 + c.scale_floor**2)
        identity = split.rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
        logit = math.log(c.opacity_start / (1 - c.opacity_start))
        parts = (
            center + offset * (0.5 * c.reach / c.torso.resolution),
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


@dataclass(frozen=True)
class MeshDecoderConfig:
    """Sizes. The defaults are those of SAM 3D Objects as published.

    Each entry of `narrowing` is a subdivision, after which the torso's width is divided by it.
    `closed` removes the inner surface of solid objects (`features_to_mesh`).
    """

    torso: TorsoConfig = field(default_factory=TorsoConfig)
    narrowing: tuple[int, ...] = (4, 8)
    norm_groups: int = 32
    closed: bool = False

    @property
    def resolution(self) -> int:
        """Voxels along the side of the finest grid."""
        return self.torso.resolution * 2 ** len(self.narrowing)


class SubdivideBlock(nn.Module):
    """Subdivides each voxel into eight; two convolutions with a skip connection."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm(norm_groups, in_channels), nn.SiLU())
        self.out_layers = nn.Sequential(
            SparseConv3(in_channels, out_channels),
            SparseGroupNorm(norm_groups, out_channels),
            nn.SiLU(),
            SparseConv3(out_channels, out_channels),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else SparseConv1(in_channels, out_channels)

    def forward(self, feats: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n8 d"]:
        """Features of `voxels.finer`."""
        norm, _ = self.act_layers
        conv1, norm2, _, conv2 = self.out_layers
        h = subdivide(F.silu(norm(feats, voxels)))
        h = F.silu(norm2(conv1(h, voxels.finer), voxels.finer))
        return conv2(h, voxels.finer) + subdivide(self.skip_connection(feats))


class MeshDecoder(DecoderTorso):
    """101 channels for each of the finest voxels; `meshes` extracts the surface."""

    def __init__(self, config: MeshDecoderConfig | None = None) -> None:
        config = config or MeshDecoderConfig()
        super().__init__(config.torso)
        self.config = config
        widths = [config.torso.dim // divisor for divisor in (1, *config.narrowing)]
        self.upsample = nn.ModuleList(
            SubdivideBlock(wide, narrow, config.norm_groups)
            for wide, narrow in zip(widths, widths[1:], strict=False)
        )
        self.out_layer = nn.Linear(widths[-1], sum(CHANNELS.values()))

    def forward(
        self, latents: Float[Tensor, "n c"], voxels: Voxels
    ) -> tuple[Float[Tensor, "m 101"], Voxels]:
        """Channels (float32) of the finest voxels, and those voxels."""
        x = self.tokens(latents, voxels)
        for block in self.upsample:
            x, voxels = block(x, voxels), voxels.finer
        return self.out_layer(x).float(), voxels

    def meshes(self, feats: Float[Tensor, "m 101"], voxels: Voxels) -> list[Mesh]:
        """The surface of each item that has voxels."""
        c = self.config
        return [
            features_to_mesh(feats[rows], voxels.coords[rows, 1:], c.resolution, c.closed)
            for rows in voxels.items
        ]

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "MeshDecoder":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, MeshDecoderConfig, source)

    def decode(self, latents: Float[Tensor, "n c"], voxels: Voxels) -> list[Mesh]:
        """Denormalised latents to the mesh of each item."""
        return self.meshes(*self(latents, voxels))
