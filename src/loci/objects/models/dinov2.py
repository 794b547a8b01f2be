"""DINOv2: the vision transformer that embeds pictures and masks, under its published names."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.attention import dot_product_attention
from loci.nn.cpu_inference import linear_gelu
from loci.nn.norms import layer_norm, normal_parameter
from loci.objects.models.efficientnet import STRIDE, WIDTH, LiteFeatures


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(head_dim)) v with one projection for all three."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not split into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        mixed = dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.fc2(linear_gelu(self.fc1, x, "none"))


class LayerScale(nn.Module):
    """A learned factor per channel of a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return x * self.gamma


class VitBlock(nn.Module):
    """Pre-norm attention and feed-forward network, each with a residual connection."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, layer_scale: bool, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn = SelfAttention(dim, heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls1, self.ls2 = (LayerScale(dim) if layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


Tokens = Literal["normal", "prenorm"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DinoConfig:
    """Sizes. The defaults are those of ViT-L/14 with registers, as in SAM 3D Objects."""

    patch: int = 14
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4
    registers: int = 4
    grid: int = 37
    """Patches along a side with learned positions; other sizes are interpolated."""
    stem: Literal["pixels", "lite"] = "pixels"
    """Features of patches: their pixels, or features of EfficientNet-lite0 (patch 16)."""


@dataclass(frozen=True)
class DinoEmbedderConfig:
    """A transformer, the side of its input in pixels, and which of its tokens are returned."""

    backbone: DinoConfig = field(default_factory=DinoConfig)
    input_size: int = 518
    tokens: Tokens = "normal"
    """normal: class and patch tokens after the last norm (stage 1). prenorm: registers as well,
    with a norm without weights in place of the last one (stage 2)."""


class PatchEmbedding(nn.Module):
    """Square patches to tokens, row by row."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        return self.proj(images)


class LiteEmbedding(nn.Module):
    """Frozen features of a small pretrained network at each patch, projected to its token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = LiteFeatures().requires_grad_(False)
        self.norm = nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, dim)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        mean, std = (images.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        features = self.features(2 * (images * std + mean) - 1)
        return self.proj(self.norm(features.movedim(1, -1))).movedim(-1, 1)


class Dino(nn.Module):
    """The vision transformer.

    `mask_token` is unused; the checkpoints contain it.
    """

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.config = c = config
        self.cls_token = normal_parameter(1, 1, c.dim)
        self.pos_embed = normal_parameter(1, 1 + c.grid**2, c.dim)
        self.register_tokens = normal_parameter(1, c.registers, c.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, c.dim))
        if c.stem == "lite" and c.patch != STRIDE:
            raise ValueError(f"patches of {c.patch} pixels, expected {STRIDE} with the lite stem")
        self.patch_embed = (
            LiteEmbedding(c.dim) if c.stem == "lite" else PatchEmbedding(c.patch, c.dim)
        )
        self.blocks = nn.ModuleList(
            VitBlock(c.dim, c.heads, c.mlp_ratio, layer_scale=True) for _ in range(c.depth)
        )
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Class, register and patch tokens before the last norm; normalised images."""
        patches = self.patch_embed(images)
        rows, columns = patches.shape[-2:]
        positions = self._positions(rows, columns)
        batch = len(images)
        first = (self.cls_token + positions[:, :1]).expand(batch, -1, -1)
        registers = self.register_tokens.expand(batch, -1, -1)
        tokens = patches.flatten(2).transpose(1, 2) + positions[:, 1:]
        x = torch.cat([first, registers, tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return x

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 n d"]:
        side = self.config.grid
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].transpose(1, 2).unflatten(-1, (side, side)).float()
        resized = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        resized = resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], resized], dim=1)


class DinoEmbedder(nn.Module):
    """Pictures or masks in [0, 1] to condition tokens."""

    def __init__(self, config: DinoEmbedderConfig | None = None) -> None:
        super().__init__()
        self.config = config or DinoEmbedderConfig()
        size, backbone = self.config.input_size, self.config.backbone
        if backbone.stem == "lite" and size % backbone.patch:
            raise ValueError(f"pictures of {size} pixels, expected a multiple of {backbone.patch}")
        self.backbone = Dino(self.config.backbone)

    @property
    def dim(self) -> int:
        return self.config.backbone.dim

    @property
    def token_count(self) -> int:
        """Tokens of one input."""
        patches = (self.config.input_size // self.config.backbone.patch) ** 2
        registers = self.config.backbone.registers if self.config.tokens == "prenorm" else 0
        return 1 + registers + patches

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of images in [0, 1] with three channels, or with one, which is repeated."""
        x = self.backbone(self._normalized(images))
        if self.config.tokens == "prenorm":
            return layer_norm(x, 1e-5)
        x = self.backbone.norm(x)
        return torch.cat([x[:, :1], x[:, 1 + self.config.backbone.registers :]], dim=1)

    def _normalized(self, images: Tensor) -> Tensor:
        """With the ImageNet statistics, also for masks, as the weights expect."""
        size = (self.config.input_size,) * 2
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        images = images.expand(-1, 3, -1, -1)
        mean, std = (images.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (images - mean) / std
