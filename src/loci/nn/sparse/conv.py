"""Convolutions over voxel tokens in plain PyTorch: gather, matrix product, scatter."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.sparse.tensor import MIDDLE, Voxels

ROWS = 512
"""What numbers of rows are rounded up to: compiling a product takes ten times as long as one."""


class Kernel(nn.Module):
    """Weight `[out, k, k, k, in]` and bias `[out]`, as the released files keep them."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, size, size, size, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = 1 / math.sqrt(in_channels * size**3)
        nn.init.uniform_(self.weight, -bound, bound)


class SparseConv3(nn.Module):
    """Submanifold 3x3x3 convolution: reads active voxels only, writes the same voxels.

    Equal to a dense zero-padded cross-correlation read at the active voxels
    (SAM 3D Objects, 8). The sum over the kernel is formed in float32.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Kernel(in_channels, out_channels, 3)

    def forward(self, feats: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "n d"]:
        taps = self.conv.weight.flatten(1, 3).unbind(1)
        total = F.linear(feats, taps[MIDDLE], self.conv.bias).float()
        seen = voxels.seen(feats)
        for tap, (target, source) in enumerate(voxels.neighbours):
            if tap != MIDDLE and target.numel():
                product = F.linear(_rounded_up(seen[source]), taps[tap])
                total.index_add_(0, target, product[: len(target)].float())
        return total.to(feats.dtype)


def _rounded_up(rows: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
    """With zeros below, where products in bfloat16 are compiled anew for every number of rows."""
    narrow = rows.dtype is torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if rows.device.type != "cpu" or not narrow:
        return rows
    return F.pad(rows, (0, 0, 0, -len(rows) % ROWS))


class RereadPointwise(nn.Module):
    """The 1x1x1 sparse convolution of the released mesh decoder, with its weight re-read.

    The weight is stored `[out, 1, 1, 1, in]`, but the library the weights were trained with
    multiplies by the same memory read as a row-major `[in, out]` matrix. Reading it the natural
    way is wrong by more than the whole output (SAM 3D Objects, 8).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Kernel(in_channels, out_channels, 1)

    def forward(self, feats: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
        weight = self.conv.weight
        reread = weight.reshape(weight.shape[-1], weight.shape[0])
        return F.linear(feats, reread.T, self.conv.bias)
