"""From a cube of structure latents to the voxels an object occupies."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.layers.norms import AffineLayerNorm
from loci.layers.volumes import Conv3d
from loci.layers.weights import load_pretrained, save_pretrained


@dataclass(frozen=True)
class StructureDecoderConfig:
    """Sizes. The defaults are the released decoder (SAM 3D Objects, 6)."""

    latent_channels: int = 8
    channels: tuple[int, ...] = (512, 128, 32)
    blocks_per_level: int = 2
    middle_blocks: int = 2


class ChannelNorm(AffineLayerNorm):
    """LayerNorm over the channels of each voxel of `[b, c, x, y, z]`, in float32."""

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1, self.conv2 = (Conv3d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Upsample(nn.Module):
    """Twice the resolution: eight channels become the eight children of a voxel."""

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
        self.middle_block = nn.Sequential(*(ResidualBlock(first) for _ in range(c.middle_blocks)))
        blocks: list[nn.Module] = []
        for level, width in enumerate(c.channels):
            if level:
                blocks.append(Upsample(c.channels[level - 1], width))
            blocks.extend(ResidualBlock(width) for _ in range(c.blocks_per_level))
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
        raise ValueError(f"{tokens.shape[1]} shape tokens do not make a cube")
    return tokens.transpose(1, 2).unflatten(-1, (side, side, side))


def pixel_shuffle(x: Float[Tensor, "b c8 x y z"]) -> Float[Tensor, "b c x2 y2 z2"]:
    """Channel ((c 2 + i) 2 + j) 2 + k of voxel (x, y, z) becomes c of (2x + i, 2y + j, 2z + k)."""
    b, _, nx, ny, nz = x.shape
    children = x.view(b, -1, 2, 2, 2, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return children.reshape(b, -1, 2 * nx, 2 * ny, 2 * nz)


def occupied(logits: Float[Tensor, "b 1 r r r"]) -> Int[Tensor, "n 4"]:
    """(batch, x, y, z) of every voxel whose logit is above 0, in row-major order; int32."""
    return torch.argwhere(logits[:, 0] > 0).int()
