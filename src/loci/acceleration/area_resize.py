"""Resizing a picture by area as the image library of the published code does it.

The spectral ratio of a picture depends on every detail of how it was resized: a truly averaged
enlargement halves it. So the integer arithmetic is repeated here, for one channel of bytes.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

WEIGHT_BITS = 11
"""Weights of an enlargement are integers, 2048 for 1."""


def area_resized(picture: UInt8[Tensor, "h w"], size: int) -> UInt8[Tensor, "size size"]:
    """A square of `size`: pixels averaged by the area they share, if neither side grows.

    Else linear between two neighbours in both directions, with weights that keep pixels flat
    where a side grows by a whole factor.
    """
    height, width = picture.shape
    if height >= size and width >= size:
        rows, columns = (_shares(n, size) for n in (height, width))
        means = rows @ picture.cpu().double() @ columns.T
        # Means of four are rounded half up, all others half to even.
        halved = height == width == 2 * size
        return ((means + 0.5).floor() if halved else means.round()).to(torch.uint8)
    (low_y, weight_y), (low_x, weight_x) = _neighbours(height, size), _neighbours(width, size)
    whole = 2**WEIGHT_BITS
    wide = picture.long()
    high_x, high_y = (low_x + 1).clamp(max=width - 1), (low_y + 1).clamp(max=height - 1)
    across = wide[:, low_x] * (whole - weight_x) + wide[:, high_x] * weight_x
    # The vertical pass drops low bits on the way, as the library's integer code does.
    upper = ((whole - weight_y)[:, None] * (across[low_y] >> 4)) >> 16
    lower = (weight_y[:, None] * (across[high_y] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _neighbours(length: int, size: int) -> tuple[Tensor, Tensor]:
    """The first of the two source pixels of every target, and the weight of the second."""
    scale = length / size
    target = torch.arange(size, dtype=torch.float64)
    low = (target * scale).floor()
    share = (target + 1) - (low + 1) / scale
    share = torch.where(share <= 0, 0.0, share - share.floor())
    share = torch.where(low >= length - 1, 0.0, share)
    weight = (share.float() * 2**WEIGHT_BITS).round()
    return low.clamp(max=length - 1).long(), weight.long()


def _shares(length: int, size: int) -> Float[Tensor, "size length"]:
    """The part of every target pixel that each source pixel covers."""
    scale = length / size
    start = torch.arange(size, dtype=torch.float64)[:, None] * scale
    pixel = torch.arange(length, dtype=torch.float64)
    covered = torch.minimum(pixel + 1, start + scale) - torch.maximum(pixel, start)
    return covered.clamp(min=0) / scale
