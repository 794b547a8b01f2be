"""The stage-2 flow: a few channels of appearance for every voxel of the structure."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from loci.layers.attention import KeysValues
from loci.layers.norms import layer_norm
from loci.layers.positions import sincos_positions
from loci.layers.sparse import Voxels
from loci.layers.timestep import TimestepEmbedder
from loci.layers.weights import load_pretrained, save_pretrained
from loci.objects.voxel_blocks import ResidualBlock, VoxelFlowBlock


class Context(NamedTuple):
    """What a condition is to the flow at every step.

    Attributes:
        attended: keys and values of its tokens for every block.
        aligned: what the pixels of each voxel add to it, `[n, io_channels[0]]`; None is nothing.
    """

    attended: tuple[KeysValues, ...]
    aligned: Tensor | None = None

    def part(self, rows: Int[Tensor, "k"]) -> "Context":
        """Of some of the voxels."""
        return self if self.aligned is None else self._replace(aligned=self.aligned[rows])


@dataclass(frozen=True)
class LatentStatistics:
    """What sampled latents are multiplied by and shifted by before they are decoded.

    The defaults are those of the released pipeline file. Its code carries others, an older
    model's, which it never uses (SAM 3D Objects, 8).
    """

    mean: tuple[float, ...] = (
        0.12211430817842484,
        0.3720415532588959,
        -1.2652190923690796,
        -2.052760601043701,
        -3.104325294494629,
        -0.11294303834438324,
        -0.8514674305915833,
        0.45506954193115234,
    )
    std: tuple[float, ...] = (
        2.373260021209717,
        2.131743907928467,
        2.2413952350616455,
        2.305893898010254,
        2.119189500808716,
        1.8969510793685913,
        2.4168498516082764,
        2.0837464332580566,
    )

    def denormalise(self, latents: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """latents * std + mean: what the decoders take."""
        return latents * latents.new_tensor(self.std) + latents.new_tensor(self.mean)

    def normalise(self, latents: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The inverse: what the flow learns."""
        return (latents - latents.new_tensor(self.mean)) / latents.new_tensor(self.std)


@dataclass(frozen=True)
class LatentFlowConfig:
    """Sizes. The defaults are the released model (SAM 3D Objects, 8).

    `io_channels` has an entry for each level finer than the transformer's, finest first;
    `io_blocks` residual blocks stand at each. `aligned` is how many channels of the pixels a voxel
    is seen at come with its latents, none as released (`loci.objects.pixel_aligned`).
    """

    channels: int = 8
    dim: int = 1024
    condition_dim: int = 1024
    blocks: int = 24
    heads: int = 16
    mlp_ratio: float = 4
    io_channels: tuple[int, ...] = (128,)
    io_blocks: int = 2
    frequencies: int = 256
    aligned: int = 0


class LatentFlow(nn.Module):
    """v(latents, time; voxels, condition), v = data - noise.

    `context` is computed once per run and `velocity` at every step; `forward` is both. Time is on
    the 0..1000 scale of SAM 3D Objects: 0 is noise, 1000 is data. What depends on the voxels
    alone is made once and kept by the `Voxels` given.
    """

    def __init__(self, config: LatentFlowConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or LatentFlowConfig()
        if not c.io_channels or c.io_blocks < 2:
            raise ValueError("the latent flow needs a finer level with at least two blocks")
        self.t_embedder = TimestepEmbedder(c.dim, c.frequencies)
        self.input_layer = nn.Linear(c.channels, c.io_channels[0])
        # Without a bias: no pixels are pixels of zeros.
        self.aligned_layer = (
            nn.Linear(c.aligned, c.io_channels[0], bias=False) if c.aligned else None
        )
        self.input_blocks = nn.ModuleList(_input_blocks(c))
        self.blocks = nn.ModuleList(
            VoxelFlowBlock(c.dim, c.condition_dim, c.heads, c.mlp_ratio) for _ in range(c.blocks)
        )
        self.out_blocks = nn.ModuleList(_output_blocks(c))
        self.out_layer = nn.Linear(c.io_channels[0], c.channels)

    def context(
        self,
        condition: Float[Tensor, "b m c"] | None,
        aligned: Float[Tensor, "n a"] | None = None,
    ) -> Context | None:
        """What is the same at every step; a condition of None is the unconditional branch.

        Args:
            condition: tokens of the picture.
            aligned: the pixels of each voxel, for a flow that was made to see them; None if they
                are not known.

        Raises:
            ValueError: for pixels of another number of channels than the configuration's.
        """
        if condition is None:
            return None
        kind = self.input_layer.weight.dtype
        attended = tuple(
            cast(VoxelFlowBlock, block).cross_attn.keys_values(condition.to(kind))
            for block in self.blocks
        )
        if aligned is None:
            return Context(attended)
        if self.aligned_layer is None or aligned.shape[1] != self.config.aligned:
            raise ValueError(f"{aligned.shape[1]} channels of pixels, not {self.config.aligned}")
        return Context(attended, self.aligned_layer(aligned.to(kind)))

    def velocity(
        self,
        latents: Float[Tensor, "n c"],
        time: Float[Tensor, "b"],
        voxels: Voxels,
        context: Context | None,
    ) -> Float[Tensor, "n c"]:
        """Predicted data - noise; float32.

        Args:
            latents: the state, a row for every voxel.
            time: 0 (noise) .. 1000 (data), one for all or one for every item.
            voxels: where the latents stand.
            context: what `context` made of the condition; None for the unconditional branch.

        Raises:
            ValueError: when latents, voxels and pixels, if there are any, differ in number.
        """
        if latents.shape[0] != len(voxels):
            raise ValueError(f"{latents.shape[0]} latents for {len(voxels)} voxels")
        moment = self.t_embedder(time)
        x, levels, remembered = self.input_layer(latents.to(moment.dtype)), [voxels], []
        if context is not None and context.aligned is not None:
            if len(context.aligned) != len(voxels):
                raise ValueError(f"pixels of {len(context.aligned)} for {len(voxels)} voxels")
            x = x + context.aligned
        for block in _residual(self.input_blocks):
            x = block(x, moment, levels[-1])
            if block.resample:
                levels.append(levels[-1].coarser.voxels)
            remembered.append(x)
        places = sincos_positions(levels[-1].coords[:, 1:], x.shape[1])
        x = x + places.to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, moment, levels[-1], None if context is None else context.attended[i])
        for block in _residual(self.out_blocks):
            if block.resample:
                levels.pop()
            x = block(torch.cat([x, remembered.pop()], dim=1), moment, levels[-1])
        return self.out_layer(layer_norm(x, 1e-5)).float()

    def forward(
        self,
        latents: Float[Tensor, "n c"],
        time: Float[Tensor, "b"],
        voxels: Voxels,
        condition: Float[Tensor, "b m c"] | None,
        aligned: Float[Tensor, "n a"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """`velocity` with a fresh `context`."""
        return self.velocity(latents, time, voxels, self.context(condition, aligned))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`, as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "LatentFlow":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, LatentFlowConfig, source)


def _input_blocks(c: LatentFlowConfig) -> list[ResidualBlock]:
    blocks = []
    for channels, wider in zip(c.io_channels, (*c.io_channels[1:], c.dim), strict=True):
        blocks += [ResidualBlock(channels, channels, c.dim) for _ in range(c.io_blocks - 1)]
        blocks.append(ResidualBlock(channels, wider, c.dim, resample=-1))
    return blocks


def _output_blocks(c: LatentFlowConfig) -> list[ResidualBlock]:
    """The mirror of the input blocks; each also takes what its counterpart gave."""
    blocks = []
    pairs = list(zip(c.io_channels, (*c.io_channels[1:], c.dim), strict=True))
    for channels, wider in reversed(pairs):
        blocks.append(ResidualBlock(2 * wider, channels, c.dim, resample=1))
        blocks += [ResidualBlock(2 * channels, channels, c.dim) for _ in range(c.io_blocks - 1)]
    return blocks


def _residual(blocks: nn.ModuleList) -> list[ResidualBlock]:
    return cast("list[ResidualBlock]", list(blocks))
