"""The structure VAE: occupied voxels to a cube of latents, for training, and back, for stage 1."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.io.weights import load_pretrained, save_pretrained
from loci.nn.conv import Conv3d
from loci.nn.norms import AffineLayerNorm


@dataclass(frozen=True)
class StructureEncoderConfig:
    """Sizes. The defaults take 32^3 voxels to 4^3 latents.

    `channels` go from the coarsest level to the finest, as in the decoder. At the finest level each
    cube of `patch_size`^3 voxels becomes one cell, because convolutions over single voxels would
    cost more than all others together.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"fold": "patch_size"}

    latent_channels: int = 32
    channels: tuple[int, ...] = (128, 64)
    patch_size: int = 4
    blocks_per_level: int = 1
    middle_blocks: int = 1

    @property
    def factor(self) -> int:
        """Voxels along the side of the cube that one latent stands for."""
        return self.patch_size * 2 ** (len(self.channels) - 1)


class Posterior(NamedTuple):
    """A normal distribution over latent tokens, in row-major (x, y, z) order."""

    mean: Float[Tensor, "b n c"]
    log_variance: Float[Tensor, "b n c"]

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "b n c"]:
        """One draw for every item of the batch; noise is drawn on the CPU."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def divergence(self) -> Float[Tensor, "b"]:
        """Kullback-Leibler divergence from the standard normal, the mean over latent numbers."""
        divergence = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * divergence.flatten(1).mean(dim=1)


class Downsample3d(nn.Module):
    """Half the resolution: the eight children of a cell become its channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Conv3d(8 * channels, out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c x2 y2 z2"]) -> Float[Tensor, "b d x y z"]:
        return self.conv(space_to_depth(x, 2))


class StructureEncoder(nn.Module):
    """Occupancy to latent tokens."""

    def __init__(self, config: StructureEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or StructureEncoderConfig()
        coarsest, finest = c.channels[0], c.channels[-1]
        self.input_layer = Conv3d(c.patch_size**3, finest, 3, padding=1)
        blocks: list[nn.Module] = []
        for level in reversed(range(len(c.channels))):
            width = c.channels[level]
            blocks.extend(VolumeResidualBlock(width) for _ in range(c.blocks_per_level))
            if level:
                blocks.append(Downsample3d(width, c.channels[level - 1]))
        self.blocks = nn.Sequential(*blocks)
        self.middle_block = nn.Sequential(
            *(VolumeResidualBlock(coarsest) for _ in range(c.middle_blocks))
        )
        head = Conv3d(coarsest, 2 * c.latent_channels, 3, padding=1)
        self.out_layer = nn.Sequential(ChannelNorm(coarsest), nn.SiLU(), head)

    def forward(self, occupancy: Float[Tensor, "b 1 r r r"]) -> Posterior:
        """The latents of occupancy, 1 in occupied voxels and 0 in others.

        Raises:
            ValueError: when the resolution is no multiple of `config.factor`.
        """
        if occupancy.shape[-1] % self.config.factor:
            raise ValueError(
                f"{occupancy.shape[-1]} voxels a side, expected a multiple of {self.config.factor}"
            )
        x = self.input_layer(space_to_depth(occupancy, self.config.patch_size))
        x = self.out_layer(self.middle_block(self.blocks(x)))
        mean, log_variance = x.flatten(2).transpose(1, 2).chunk(2, dim=-1)
        return Posterior(mean, log_variance.clamp(-12, 4))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "StructureEncoder":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, StructureEncoderConfig, source)


def space_to_depth(x: Float[Tensor, "b c x y z"], side: int) -> Float[Tensor, "b cs3 xs ys zs"]:
    """Cubes of voxels to channels; for side 2 the inverse of `pixel_shuffle`."""
    b, c, *sizes = x.shape
    nx, ny, nz = (size // side for size in sizes)
    split = x.view(b, c, nx, side, ny, side, nz, side).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return split.reshape(b, c * side**3, nx, ny, nz)


@dataclass(frozen=True)
class StructureDecoderConfig:
    """Sizes. The defaults are those of SAM 3D Objects as published."""

    latent_channels: int = 8
    channels: tuple[int, ...] = (512, 128, 32)
    blocks_per_level: int = 2
    middle_blocks: int = 2


class ChannelNorm(AffineLayerNorm):
    """LayerNorm over the channels of each voxel of `[b, c, x, y, z]`, in float32."""

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class VolumeResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1, self.conv2 = (Conv3d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Upsample3d(nn.Module):
    """Twice the resolution: channels become the eight children of a cell."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Conv3d(channels, 8 * out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b d x2 y2 z2"]:
        return pixel_shuffle(self.conv(x))


class StructureDecoder(nn.Module):
    """Latent tokens to occupancy logits at 2^(levels - 1) times the resolution."""

    def __init__(self, config: StructureDecoderConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or StructureDecoderConfig()
        first, last = c.channels[0], c.channels[-1]
        self.input_layer = Conv3d(c.latent_channels, first, 3, padding=1)
        self.middle_block = nn.Sequential(
            *(VolumeResidualBlock(first) for _ in range(c.middle_blocks))
        )
        blocks: list[nn.Module] = []
        for level, width in enumerate(c.channels):
            if level:
                blocks.append(Upsample3d(c.channels[level - 1], width))
            blocks.extend(VolumeResidualBlock(width) for _ in range(c.blocks_per_level))
        self.blocks = nn.ModuleList(blocks)
        head = Conv3d(last, 1, 3, padding=1)
        self.out_layer = nn.Sequential(ChannelNorm(last), nn.SiLU(), head)

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 r r r"]:
        """Logits of occupancy for the `shape` latent, tokens in row-major (x, y, z) order.

        Raises:
            ValueError: when the number of tokens is no cube.
        """
        x = self.middle_block(self.input_layer(latent_cube(tokens)))
        for block in self.blocks:
            x = block(x)
        return self.out_layer(x)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "StructureDecoder":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, StructureDecoderConfig, source)


def latent_cube(tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b c r r r"]:
    """Row-major tokens as a cube, channels first."""
    side = round(tokens.shape[1] ** (1 / 3))
    if side**3 != tokens.shape[1]:
        raise ValueError(f"{tokens.shape[1]} shape tokens, expected the cube of an integer")
    return tokens.transpose(1, 2).unflatten(-1, (side, side, side))


def pixel_shuffle(x: Float[Tensor, "b c8 x y z"]) -> Float[Tensor, "b c x2 y2 z2"]:
    """Channel ((c 2 + i) 2 + j) 2 + k of voxel (x, y, z) becomes c of (2x + i, 2y + j, 2z + k)."""
    b, _, nx, ny, nz = x.shape
    children = x.view(b, -1, 2, 2, 2, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return children.reshape(b, -1, 2 * nx, 2 * ny, 2 * nz)


def occupied(logits: Float[Tensor, "b 1 r r r"]) -> Int[Tensor, "n 4"]:
    """(batch, x, y, z) of every voxel whose logit is above 0, in row-major order; int32."""
    return torch.argwhere(logits[:, 0] > 0).int()
