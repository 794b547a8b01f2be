"""Convolutions over voxel tokens in plain PyTorch: gather, matrix product, scatter."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.sparse.voxels import MIDDLE, Voxels

ROW_MULTIPLE = 512
"""Row counts are padded to a multiple of this: oneDNN compiles a bfloat16 product for every new
count, which takes ten times as long as the product."""


class KernelWeight(nn.Module):
    """Weight `[out, k, k, k, in]` and bias `[out]`, the layout of the published weights."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, size, size, size, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = 1 / math.sqrt(in_channels * size**3)
        nn.init.uniform_(self.weight, -bound, bound)


class SparseConv3(nn.Module):
    """Submanifold 3x3x3 convolution: inputs and outputs are the active voxels.

    Equals a dense zero-padded cross-correlation evaluated at the active voxels. The sum over the
    kernel is accumulated in float32.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = KernelWeight(in_channels, out_channels, 3)

    def forward(self, feats: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n d"]:
        taps = self.conv.weight.flatten(1, 3).unbind(1)
        total = F.linear(feats, taps[MIDDLE], self.conv.bias).float()
        read = voxels.with_cached(feats)
        for tap, (target, source) in enumerate(voxels.neighbors):
            if tap != MIDDLE and target.numel():
                product = F.linear(_padded(read[source]), taps[tap])
                total.index_add_(0, target, product[: len(target)].float())
        return total.to(feats.dtype)


def _padded(rows: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
    """With zero rows appended for bfloat16 products on the CPU (`ROW_MULTIPLE`)."""
    narrow = rows.dtype is torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if rows.device.type != "cpu" or not narrow:
        return rows
    return F.pad(rows, (0, 0, 0, -len(rows) % ROW_MULTIPLE))


class SparseConv1(nn.Module):
    """The 1x1x1 sparse convolution of the published mesh decoder.

    Its weight is stored as `[out, 1, 1, 1, in]`, but the library that it was trained with reads
    the same memory as a row-major `[in, out]` matrix. This layer does the same.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = KernelWeight(in_channels, out_channels, 1)

    def forward(self, feats: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        weight = self.conv.weight
        matrix = weight.reshape(weight.shape[-1], weight.shape[0])
        return F.linear(feats, matrix.T, self.conv.bias)
