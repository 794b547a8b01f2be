"""The flow of stage 2: velocities of the structured latents (SLAT), one latent per voxel.

Sparse residual blocks lead down to a coarser grid, where transformer blocks attend to each other
and to the condition, and back up.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.io.weights import load_pretrained, save_pretrained
from loci.nn.attention import FeedForward, KeysValues
from loci.nn.embeddings import TimestepEmbedder, sincos_embedding
from loci.nn.norms import AffineLayerNorm, Modulation, gated_residual, layer_norm, modulated_norm
from loci.nn.sparse.attention import VoxelAttention, VoxelCrossAttention
from loci.nn.sparse.conv import SparseConv3
from loci.nn.sparse.voxels import Voxels, downsample, upsample

EPS = 1e-6


def per_voxel(per_item: Float[Tensor, "b d"], voxels: Voxels) -> Float[Tensor, "n d"]:
    """Vectors per item to vectors per voxel; a single one stays one, to be broadcast."""
    return per_item if per_item.shape[0] == 1 else per_item[voxels.coords[:, 0]]


class SparseResidualBlock(nn.Module):
    """Two sparse convolutions, modulated by the timestep, with a skip connection.

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
        self, feats: Float[Tensor, "n c"], time_embedding: Float[Tensor, "b e"], fine: Voxels
    ) -> Float[Tensor, "m d"]:
        """The block's output.

        Args:
            feats: of `fine`, or of its parents if the block upsamples.
            time_embedding: the embedded time, one for all items or one for each.
            fine: the finer of the voxel sets before and after the block.
        """
        voxels = fine
        if self.resample < 0:
            feats, voxels = downsample(feats, fine), fine.coarser.voxels
        elif self.resample > 0:
            feats = upsample(feats, fine)
        scale, shift = per_voxel(self.emb_layers(time_embedding), voxels).chunk(2, dim=-1)
        h = self.conv1(F.silu(self.norm1(feats)), voxels)
        h = modulated_norm(h, shift, scale, EPS)
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
        time_embedding: Float[Tensor, "b d"],
        voxels: Voxels,
        keys_values: KeysValues | None,
    ) -> Float[Tensor, "n d"]:
        """The block's output; `keys_values` None is the unconditional branch."""
        modulation = per_voxel(self.adaLN_modulation(time_embedding), voxels)
        m = Modulation(*modulation.chunk(6, dim=-1))
        h = modulated_norm(feats, m.shift1, m.scale1, EPS)
        feats = gated_residual(feats, self.self_attn(h, voxels.by_item), m.gate1)
        feats = feats + self.cross_attn(self.norm2(feats), keys_values, voxels)
        h = modulated_norm(feats, m.shift2, m.scale2, EPS)
        return gated_residual(feats, self.mlp(h), m.gate2)


class SlatContext(NamedTuple):
    """The condition in the form that serves every step.

    Attributes:
        attended: keys and values of its tokens for every block.
        aligned: projected pixel-aligned features, `[n, io_channels[0]]`, if there are any.
    """

    attended: tuple[KeysValues, ...]
    aligned: Tensor | None = None

    def part(self, indices: Int[Tensor, "k"]) -> "SlatContext":
        """The condition of the voxels at these indices."""
        return self if self.aligned is None else self._replace(aligned=self.aligned[indices])


@dataclass(frozen=True)
class SlatStatistics:
    """Mean and standard deviation of the latents, by which samples are denormalised.

    The defaults are those of the published pipeline file; others in the published code are unused.
    """

    FORMER_NAMES: ClassVar[tuple[str, ...]] = ("LatentStatistics",)

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

    def denormalize(self, latents: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """latents * std + mean, for the decoders."""
        return latents * latents.new_tensor(self.std) + latents.new_tensor(self.mean)

    def normalize(self, latents: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The inverse, for training."""
        return (latents - latents.new_tensor(self.mean)) / latents.new_tensor(self.std)


@dataclass(frozen=True)
class SlatFlowConfig:
    """Sizes. The defaults are those of SAM 3D Objects as published.

    `io_channels` has an entry for each level finer than the transformer's, finest first, and
    `io_blocks` is the number of residual blocks per level. `aligned` is the number of pixel-aligned
    features per voxel (`loci.objects.inputs.pixel_aligned`); 0 as published.
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
    the 0..1000 scale of SAM 3D Objects: 0 is noise, 1000 is data. `Voxels` caches what depends on
    the voxels only, such as neighbours.
    """

    def __init__(self, config: SlatFlowConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or SlatFlowConfig()
        if not c.io_channels or c.io_blocks < 2:
            raise ValueError(
                f"io_channels {c.io_channels}, io_blocks {c.io_blocks}: expected at least one "
                "level of at least two blocks"
            )
        self.t_embedder = TimestepEmbedder(c.dim, c.frequencies)
        self.input_layer = nn.Linear(c.channels, c.io_channels[0])
        # Without a bias, so that missing features equal features of 0.
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
        """The part of the computation that serves every step; None is the unconditional branch.

        Args:
            condition: tokens of the picture.
            aligned: pixel-aligned features of each voxel; None if there are none.

        Raises:
            ValueError: for another number of features than the configuration's.
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
            raise ValueError(
                f"{aligned.shape[1]} pixel-aligned features, expected {self.config.aligned}"
            )
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
            latents: the state, one for every voxel.
            time: 0 (noise) .. 1000 (data), one for all or one for every item.
            voxels: their coordinates, in the same order.
            context: from `context`; None for the unconditional branch.

        Raises:
            ValueError: when latents, voxels and pixel-aligned features differ in number.
        """
        if latents.shape[0] != len(voxels):
            raise ValueError(f"{latents.shape[0]} latents for {len(voxels)} voxels")
        time_embedding = self.t_embedder(time)
        x, levels, skips = self.input_layer(latents.to(time_embedding.dtype)), [voxels], []
        if context is not None and context.aligned is not None:
            if len(context.aligned) != len(voxels):
                raise ValueError(
                    f"pixel-aligned features of {len(context.aligned)} for {len(voxels)} voxels"
                )
            x = x + context.aligned
        for block in _residual(self.input_blocks):
            x = block(x, time_embedding, levels[-1])
            if block.resample:
                levels.append(levels[-1].coarser.voxels)
            skips.append(x)
        positions = sincos_embedding(levels[-1].coords[:, 1:], x.shape[1])
        x = x + positions.to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(
                x, time_embedding, levels[-1], None if context is None else context.attended[i]
            )
        for block in _residual(self.out_blocks):
            if block.resample:
                levels.pop()
            x = block(torch.cat([x, skips.pop()], dim=1), time_embedding, levels[-1])
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
    """The input blocks mirrored; each also takes the output of its counterpart."""
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
