"""The hierarchical pose-free memory compressor (HPMC) of Infinite-World (arXiv 2602.02393).

A temporal encoder turns latents into a quarter as many memory latents, or memory tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.attention import Attention
from loci.nn.embeddings import grid_rotary_embedding
from loci.nn.norms import layer_norm

COMPRESSION = 4
"""Latents per memory token in time, and memory tokens per merged one."""


@dataclass(frozen=True)
class HPMCConfig:
    """Sizes of the temporal encoder. `HPMCConfig()` is the published model's."""

    in_channels: int = 16
    out_channels: int = 16
    hidden: int = 256
    heads: int = 8
    blocks_per_level: int = 2
    spatial_stride: int = 1
    groups: int = 32


class TemporalResidualBlock(nn.Module):
    """Twice (group norm, SiLU, 3x3x3 convolution), plus the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv1 = nn.Conv3d(width, width, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv2 = nn.Conv3d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        inner = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(inner)))


class TemporalDownsample(nn.Module):
    """T -> ceil(T / 2) by a strided convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, kernel_size=3, stride=(2, 1, 1), padding=1)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h w"]:
        return self.conv(x)


class MiddleAttention(nn.Module):
    """Self-attention over all positions, with rotary positions counted from the tensor's start."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        frames, height, width = x.shape[2:]
        head_dim = x.shape[1] // self.attn.heads
        tokens = x.flatten(2).transpose(1, 2)
        at = grid_rotary_embedding(frames, height, width, head_dim, x.device)
        tokens = tokens + self.attn(layer_norm(tokens), at)
        return tokens.transpose(1, 2).unflatten(2, (frames, height, width))


class HPMCEncoder(nn.Module):
    """Compresses time by four. Every output depends on every input of the tensor.

    Convolutions are zero-padded and not causal, and group norms span all frames, so an encoding
    cannot be extended: a longer history has to be encoded again, or in windows.
    """

    def __init__(self, config: HPMCConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        stride = (1, c.spatial_stride, c.spatial_stride)
        self.conv_in = nn.Conv3d(c.in_channels, c.hidden, kernel_size=3, stride=stride, padding=1)

        def level() -> nn.Sequential:
            blocks = [TemporalResidualBlock(c.hidden, c.groups) for _ in range(c.blocks_per_level)]
            return nn.Sequential(*blocks, TemporalDownsample(c.hidden))

        self.down_block1, self.down_block2 = level(), level()
        self.mid_block = nn.Sequential(
            TemporalResidualBlock(c.hidden, c.groups),
            MiddleAttention(c.hidden, c.heads),
            TemporalResidualBlock(c.hidden, c.groups),
        )
        self.norm_out = nn.GroupNorm(c.groups, c.hidden, eps=1e-6)
        self.conv_out = nn.Conv3d(c.hidden, c.out_channels, kernel_size=3, padding=1)

    def compress(self, hidden: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t4 h w"]:
        """Everything after the input convolution."""
        x = self.mid_block(self.down_block2(self.down_block1(hidden)))
        return self.conv_out(F.silu(self.norm_out(x)))

    def forward(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t4 h2 w2"]:
        """T latents to ceil(T / 4), in the type of the weights."""
        return self.compress(self.conv_in(latents.to(self.conv_in.weight.dtype)))

    def encode(
        self, latents: Float[Tensor, "b c t h w"], poses: Float[Tensor, "b t 3"] | None = None
    ) -> Float[Tensor, "b d t4 h2 w2"]:
        """Latents to memory tokens of level one; the published encoder does not use `poses`."""
        return self(latents)

    def merge(
        self, tokens: Float[Tensor, "b d t h w"], poses: Float[Tensor, "b t 4"] | None = None
    ) -> Float[Tensor, "b d t4 h w"]:
        """Memory tokens compressed again as if they were latents, with the same weights."""
        return self(tokens)


@dataclass(frozen=True)
class WindowPlan:
    """How the published model divides a history into windows.

    Up to `direct_limit` latents are compressed in one pass. Beyond, `windows` windows of `window`
    latents, spread evenly, are compressed, and the result is compressed once more.
    """

    direct_limit: int = 80
    window: int = 64
    windows: int = 5

    def starts(self, length: int) -> list[int]:
        """First latent of each window for a history longer than the direct limit."""
        stride = max(1, (length - self.window) // (self.windows - 1))
        return [i * stride for i in range(self.windows)]

    @property
    def contiguous_limit(self) -> int:
        """The longest history that the windows cover without gaps (323 as published)."""
        return self.windows * self.window + self.windows - 2


def published_memory(
    encoder: HPMCEncoder, history: Float[Tensor, "b c t h w"], plan: WindowPlan | None = None
) -> Float[Tensor, "b c k h w"]:
    """The memory of the published model: one pass, or windows and a second pass (`WindowPlan`).

    At most 20 memory latents with the published constants. Beyond `WindowPlan.contiguous_limit`
    latents the windows leave gaps; `HierarchicalMemory` takes over there.
    """
    plan = plan or WindowPlan()
    length = history.shape[2]
    if length <= plan.direct_limit:
        return encoder(history)
    windows = [encoder(history[:, :, s : s + plan.window]) for s in plan.starts(length)]
    return encoder(torch.cat(windows, dim=2))
