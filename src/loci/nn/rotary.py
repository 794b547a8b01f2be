"""Rotary position embedding."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.nn.cpu_inference import infers_bfloat16_on_cpu, rotated_pairs


class RotaryEmbedding(NamedTuple):
    """Cosine and sine of every token's angles, one per pair of channels; float32.

    Both are `[tokens, pairs]`, or `[batch, tokens, pairs]` if samples differ.
    """

    cos: Tensor
    sin: Tensor

    def slice(self, start: int | None, stop: int | None) -> "RotaryEmbedding":
        """The tokens `start:stop`."""
        return RotaryEmbedding(self.cos[..., start:stop, :], self.sin[..., start:stop, :])


def rotary_embedding(angles: Float[Tensor, "*b tokens pairs"]) -> RotaryEmbedding:
    """Cosines and sines of angles in radians, computed in their dtype and stored as float32."""
    return RotaryEmbedding(angles.cos().float(), angles.sin().float())


def rotary_frequencies(pairs: int, base: float = 10000.0) -> Float[Tensor, "pairs"]:
    """base^(-j / pairs) for j = 0 .. pairs-1, in float64."""
    return base ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))


def split_pairs(pairs: int) -> tuple[int, int, int]:
    """How many channel pairs encode time, rows and columns: a third each for rows and columns."""
    spatial = pairs // 3
    return pairs - 2 * spatial, spatial, spatial


def grid_rotary_embedding(
    frames: int, rows: int, columns: int, head_dim: int, device: torch.device | None = None
) -> RotaryEmbedding:
    """Rotary embedding of a frames x rows x columns grid of tokens, frame-major.

    Angles are computed in float64 on the CPU (MPS has no float64) and stored as float32.
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
            t.flatten()[:, None] * rotary_frequencies(time),
            y.flatten()[:, None] * rotary_frequencies(vertical),
            x.flatten()[:, None] * rotary_frequencies(horizontal),
        ],
        dim=-1,
    )
    cos, sin = rotary_embedding(angles)
    return RotaryEmbedding(cos.to(device), sin.to(device))


def apply_rotary(
    x: Float[Tensor, "b heads tokens d"], rotary: RotaryEmbedding
) -> Float[Tensor, "b heads tokens d"]:
    """Rotate the channel pairs (2j, 2j+1) of x; computed in float32, returned in the dtype of x."""
    cos, sin = (part if part.ndim == 2 else part.unsqueeze(1) for part in rotary)
    if infers_bfloat16_on_cpu(x):
        return rotated_pairs(x, cos, sin)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
