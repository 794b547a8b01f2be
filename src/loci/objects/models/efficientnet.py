"""EfficientNet-lite0 up to stride 16, the pretrained backbone of the small model.

A few hundred objects are too few to train a picture embedder. This network was trained on ImageNet
(Tan and Le, 2019; the variant without squeeze-and-excitation and with ReLU6) and stays frozen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

STEM = 32
"""Channels of the first convolution."""
STRIDE = 16
"""Pixels along the side of a feature cell."""


class LiteStage(NamedTuple):
    """Blocks of one width; the first applies the stride."""

    kernel: int
    stride: int
    expansion: int
    width: int
    blocks: int


STAGES = (
    LiteStage(3, 1, 1, 16, 1),
    LiteStage(3, 2, 6, 24, 2),
    LiteStage(5, 2, 6, 40, 2),
    LiteStage(3, 2, 6, 80, 3),
    LiteStage(5, 1, 6, 112, 3),
)
"""Those of EfficientNet-lite0, without its last two."""
WIDTH = STAGES[-1].width
"""Channels of the features."""


class LiteFeatures(nn.Module):
    """Pictures to a feature map. Batch norms are folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        blocks, width = [], STEM
        for stage in STAGES:
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                blocks.append(LiteBlock(width, stage.width, stage.kernel, stride, stage.expansion))
                width = stage.width
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 112 gh gw"]:
        """Features of pictures in [-1, 1], whose sides are multiples of 16."""
        x = self.stem(images).clamp(0, 6)
        for block in self.blocks:
            x = block(x)
        return x


class LiteBlock(nn.Module):
    """Inverted residual: expand, depthwise convolution, project; with a skip where sizes allow."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.widen = SameConv(width, inner, 1) if expansion > 1 else None
        self.look = SameConv(inner, inner, kernel, stride, groups=inner)
        self.narrow = SameConv(inner, out, 1)
        self.adds = stride == 1 and width == out

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        inner = x if self.widen is None else self.widen(x).clamp(0, 6)
        changed = self.narrow(self.look(inner).clamp(0, 6))
        return x + changed if self.adds else changed


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: an odd zero goes to the right and bottom."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1:
            return super().forward(input)
        padding: list[int] = []
        for side in (input.shape[-1], input.shape[-2]):
            whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [whole // 2, whole - whole // 2]
        return super().forward(F.pad(input, padding))


@torch.no_grad()
def fold_batch_norm(
    conv: nn.Conv2d,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float = 1e-3,
) -> None:
    """Set `conv` to a convolution without bias followed by a batch norm."""
    factor = scale / (variance + eps).sqrt()
    conv.weight.copy_(weight * factor[:, None, None, None])
    assert conv.bias is not None
    conv.bias.copy_(shift - mean * factor)
