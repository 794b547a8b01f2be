"""The blocks of the stage-2 flow: residual convolutions, and attention bent to a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.io.weights import load_pretrained, save_pretrained
from loci.nn.attention import FeedForward, KeysValues
from loci.nn.embeddings import TimestepEmbedder, sincos_positions
from loci.nn.norms import AffineLayerNorm, Modulation, gated, layer_norm, modulated
from loci.nn.sparse.attention import VoxelAttention, VoxelCrossAttention
from loci.nn.sparse.conv import SparseConv3
from loci.nn.sparse.tensor import Voxels, downsample, upsample

EPS = 1e-6


def per_voxel(rows: Float[Tensor, "b d"], voxels: Voxels) -> Float[Tensor, "n d"]:
    """Every voxel's row of its item; a single row is left to broadcast, which saves memory."""
    return rows if rows.shape[0] == 1 else rows[voxels.coords[:, 0]]


class SparseResidualBlock(nn.Module):
    """Two sparse convolutions bent to a time, around a skip (SAM 3D Objects, 8).

    `resample` is 0, -1 (to the coarser voxels first) or 1 (to the finer voxels first).
    """

    def __init__(
        self, in_channels: int, out_channels: int, moment_dim: int, resample: int = 0
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = AffineLayerNorm(in_channels, EPS)
        self.conv1 = SparseConv3(in_channels, out_channels)
        self.conv2 = SparseConv3(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(moment_dim, 2 * out_channels))
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Linear(in_channels, out_channels)

    def forward(
        self, feats: Float[Tensor, "n c"], moment: Float[Tensor, "b e"], fine: Voxels
    ) -> Float[Tensor, "m d"]:
        """Features one block on.

        Args:
            feats: of `fine`, or of its parents if the block upsamples.
            moment: the embedded time, one row or one for every item.
            fine: the finer of the two voxel sets the block deals with.
        """
        voxels = fine
        if self.resample < 0:
            feats, voxels = downsample(feats, fine), fine.coarser.voxels
        elif self.resample > 0:
            feats = upsample(feats, fine)
        scale, shift = per_voxel(self.emb_layers(moment), voxels).chunk(2, dim=-1)
        h = self.conv1(F.silu(self.norm1(feats)), voxels)
        h = modulated(layer_norm(h, EPS), shift, scale)
        return self.conv2(F.silu(h), voxels) + self.skip_connection(feats)


class VoxelFlowBlock(nn.Module):
    """Self-attention over an item's voxels, cross-attention to the picture, feed-forward."""

    def __init__(self, dim: int, condition_dim: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.norm2 = AffineLayerNorm(dim, EPS)
        self.self_attn = VoxelAttention(dim, heads, norm=True)
        self.cross_attn = VoxelCrossAttention(dim, condition_dim, heads)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(
        self,
        feats: Float[Tensor, "n d"],
        moment: Float[Tensor, "b d"],
        voxels: Voxels,
        context: KeysValues | None,
    ) -> Float[Tensor, "n d"]:
        """One block on; `context` None is the unconditional branch."""
        rows = per_voxel(self.adaLN_modulation(moment), voxels)
        m = Modulation(*rows.chunk(6, dim=-1))
        h = modulated(layer_norm(feats, EPS), m.shift1, m.scale1)
        feats = gated(feats, self.self_attn(h, voxels.by_item), m.gate1)
        feats = feats + self.cross_attn(self.norm2(feats), context, voxels)
        h = modulated(layer_norm(feats, EPS), m.shift2, m.scale2)
        return gated(feats, self.mlp(h), m.gate2)


class SlatContext(NamedTuple):
    """What a condition is to the flow at every step.

    Attributes:
        attended: keys and values of its tokens for every block.
        aligned: what the pixels of each voxel add to it, `[n, io_channels[0]]`; None is nothing.
    """

    attended: tuple[KeysValues, ...]
    aligned: Tensor | None = None

    def part(self, rows: Int[Tensor, "k"]) -> "SlatContext":
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
class SlatFlowConfig:
    """Sizes. The defaults are the released model (SAM 3D Objects, 8).

    `io_channels` has an entry for each level finer than the transformer's, finest first;
    `io_blocks` residual blocks stand at each. `aligned` is how many channels of the pixels a voxel
    is seen at come with its latents, none as released (`loci.objects.inputs.pixel_aligned`).
    """

    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("LatentFlowConfig",)

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


class SlatFlow(nn.Module):
    """v(latents, time; voxels, condition), v = data - noise.

    `context` is computed once per run and `velocity` at every step; `forward` is both. Time is on
    the 0..1000 scale of SAM 3D Objects: 0 is noise, 1000 is data. What depends on the voxels
    alone is made once and kept by the `Voxels` given.
    """

    def __init__(self, config: SlatFlowConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or SlatFlowConfig()
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
    ) -> SlatContext | None:
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
            return SlatContext(attended)
        if self.aligned_layer is None or aligned.shape[1] != self.config.aligned:
            raise ValueError(f"{aligned.shape[1]} channels of pixels, not {self.config.aligned}")
        return SlatContext(attended, self.aligned_layer(aligned.to(kind)))

    def velocity(
        self,
        latents: Float[Tensor, "n c"],
        time: Float[Tensor, "b"],
        voxels: Voxels,
        context: SlatContext | None,
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
    def from_pretrained(cls, source: str | Path) -> "SlatFlow":
        """Load a folder or hub id written by `save_pretrained`; strict, in the saved type."""
        return load_pretrained(cls, SlatFlowConfig, source)


def _input_blocks(c: SlatFlowConfig) -> list[SparseResidualBlock]:
    blocks = []
    for channels, wider in zip(c.io_channels, (*c.io_channels[1:], c.dim), strict=True):
        blocks += [SparseResidualBlock(channels, channels, c.dim) for _ in range(c.io_blocks - 1)]
        blocks.append(SparseResidualBlock(channels, wider, c.dim, resample=-1))
    return blocks


def _output_blocks(c: SlatFlowConfig) -> list[SparseResidualBlock]:
    """The mirror of the input blocks; each also takes what its counterpart gave."""
    blocks = []
    pairs = list(zip(c.io_channels, (*c.io_channels[1:], c.dim), strict=True))
    for channels, wider in reversed(pairs):
        blocks.append(SparseResidualBlock(2 * wider, channels, c.dim, resample=1))
        blocks += [
            SparseResidualBlock(2 * channels, channels, c.dim) for _ in range(c.io_blocks - 1)
        ]
    return blocks


def _residual(blocks: nn.ModuleList) -> list[SparseResidualBlock]:
    return cast("list[SparseResidualBlock]", list(blocks))
