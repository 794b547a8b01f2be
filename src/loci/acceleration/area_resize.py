"""OpenCV's INTER_AREA resizing in its integer arithmetic, for one channel of bytes.

The spectral ratio of an image depends on every detail of its resizing: averaging that is exact
where the image is enlarged halves the ratio. OpenCV itself is not used because its results differ
between versions 4 and 5.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

WEIGHT_BITS = 11
"""Interpolation weights are integers; 2048 stands for 1."""


def area_resized(image: UInt8[Tensor, "h w"], size: int) -> UInt8[Tensor, "size size"]:
    """Resizes to a square of `size` pixels.

    If neither side grows, pixels are averaged by the area they share with the target. Otherwise
    both directions interpolate linearly, with weights that repeat pixels where a side grows by a
    whole factor.
    """
    height, width = image.shape
    if height >= size and width >= size:
        rows, columns = (_overlaps(n, size) for n in (height, width))
        means = rows @ image.cpu().double() @ columns.T
        # Means of exactly four pixels are rounded half up, all others half to even.
        halved = height == width == 2 * size
        return ((means + 0.5).floor() if halved else means.round()).to(torch.uint8)
    (low_y, weight_y), (low_x, weight_x) = _neighbors(height, size), _neighbors(width, size)
    one = 2**WEIGHT_BITS
    pixels = image.long()
    high_x, high_y = (low_x + 1).clamp(max=width - 1), (low_y + 1).clamp(max=height - 1)
    across = pixels[:, low_x] * (one - weight_x) + pixels[:, high_x] * weight_x
    # The vertical pass drops low bits in two places, as OpenCV's integer code does.
    upper = ((one - weight_y)[:, None] * (across[low_y] >> 4)) >> 16
    lower = (weight_y[:, None] * (across[high_y] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _neighbors(length: int, size: int) -> tuple[Int[Tensor, "size"], Int[Tensor, "size"]]:
    """For every target pixel, the first of its two source pixels and the second one's weight."""
    scale = length / size
    target = torch.arange(size, dtype=torch.float64)
    low = (target * scale).floor()
    share = (target + 1) - (low + 1) / scale
    share = torch.where(share <= 0, 0.0, share - share.floor())
    share = torch.where(low >= length - 1, 0.0, share)
    weight = (share.float() * 2**WEIGHT_BITS).round()
    return low.clamp(max=length - 1).long(), weight.long()


def _overlaps(length: int, size: int) -> Float[Tensor, "size length"]:
    """The share of every target pixel that each source pixel covers."""
    scale = length / size
    start = torch.arange(size, dtype=torch.float64)[:, None] * scale
    pixel = torch.arange(length, dtype=torch.float64)
    covered = torch.minimum(pixel + 1, start + scale) - torch.maximum(pixel, start)
    return covered.clamp(min=0) / scale
