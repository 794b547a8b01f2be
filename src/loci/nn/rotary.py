"""Rotary positions: a token's place turns pairs of its query and key channels."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, one per channel pair; float32.

    Both are `[tokens, pairs]`, or `[batch, tokens, pairs]` where samples differ.
    """

    cos: Tensor
    sin: Tensor

    def slice(self, start: int | None, stop: int | None) -> "Rotation":
        """The tokens `start:stop`."""
        return Rotation(self.cos[..., start:stop, :], self.sin[..., start:stop, :])


def rotation(angles: Float[Tensor, "*b tokens pairs"]) -> Rotation:
    """Cosines and sines of angles in radians; computed in the type given, kept in float32."""
    return Rotation(angles.cos().float(), angles.sin().float())


def axis_frequencies(pairs: int, base: float = 10000.0) -> Float[Tensor, "pairs"]:
    """base^(-j / pairs) for j = 0 .. pairs-1, in float64."""
    return base ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))


def split_pairs(pairs: int) -> tuple[int, int, int]:
    """How many channel pairs go to time, rows and columns: a third each to rows and columns."""
    spatial = pairs // 3
    return pairs - 2 * spatial, spatial, spatial


def grid_rotation(
    frames: int, rows: int, columns: int, head_dim: int, device: torch.device | None = None
) -> Rotation:
    """Rotation of a frames x rows x columns grid of tokens, frame-major (Infinite-World, 2.5).

    Angles are formed in float64 on the CPU (MPS has no float64) and stored as float32.
    """
    time, vertical, horizontal = split_pairs(head_dim // 2)
    t, y, x = torch.meshgrid(
        torch.arange(frames, dtype=torch.float64),
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    angles = torch.cat(
        [
            t.flatten()[:, None] * axis_frequencies(time),
            y.flatten()[:, None] * axis_frequencies(vertical),
            x.flatten()[:, None] * axis_frequencies(horizontal),
        ],
        dim=-1,
    )
    cos, sin = rotation(angles)
    return Rotation(cos.to(device), sin.to(device))


def rotate(x: Float[Tensor, "b heads tokens d"], by: Rotation) -> Float[Tensor, "b heads tokens d"]:
    """Turn the interleaved pairs (2j, 2j+1) of x; computed in float32, returned in x's type."""
    cos, sin = (part if part.ndim == 2 else part.unsqueeze(1) for part in by)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
