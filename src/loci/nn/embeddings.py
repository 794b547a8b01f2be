"""Embeddings of timesteps and positions: sinusoidal, and rotary."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from loci.nn.cpu_inference import infers_bfloat16_on_cpu, rotated_pairs


def timestep_embedding(timestep: Float[Tensor, "b"], width: int) -> Float[Tensor, "b width"]:
    """Cosines, then sines, of t * 10000^(-j / (width/2)); float32.

    `timestep` is on the 0..1000 scale. Computed in float64 on the CPU, since MPS has no float64.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angles = timestep.detach().cpu().double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float().to(timestep.device)


class TimestepEmbedder(nn.Module):
    """`timestep_embedding`, then linear, SiLU, linear."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timestep: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """`timestep` is on the 0..1000 scale, on the device of the weights or the CPU; the result
        has the type and device of the weights."""
        sinusoids = timestep_embedding(timestep.float(), self.frequencies)
        return self.mlp(sinusoids.to(next(self.mlp.parameters())))


def sincos_embedding(coords: Int[Tensor, "n axes"], width: int) -> Float[Tensor, "n width"]:
    """[sin(p f), cos(p f)] for each axis, concatenated and zero-padded to the width; float32.

    The frequencies are f = 10000^(-i/F), i < F, with F = width // axes // 2.
    """
    count = width // coords.shape[1] // 2
    steps = torch.arange(count, dtype=torch.float32, device=coords.device) / count
    angles = coords.float()[..., None] * (1.0 / 10000**steps)
    sinusoids = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return torch.nn.functional.pad(sinusoids, (0, width - sinusoids.shape[1]))


def cube_embedding(resolution: int, width: int) -> Float[Tensor, "n width"]:
    """`sincos_embedding` of a cube's voxels in row-major (x, y, z) order, on the CPU."""
    axis = torch.arange(resolution, device="cpu")
    return sincos_embedding(torch.cartesian_prod(axis, axis, axis), width)


class RotaryEmbedding(NamedTuple):
    """Cosine and sine of every token's angles, one per pair of channels; float32.

    Both are `[tokens, pairs]`, or `[batch, tokens, pairs]` if samples differ.
    """

    cos: Tensor
    sin: Tensor

    def slice(self, start: int | None, stop: int | None) -> "RotaryEmbedding":
        """The tokens `start:stop`."""
        return RotaryEmbedding(self.cos[..., start:stop, :], self.sin[..., start:stop, :])

    def select(self, indices: Int[Tensor, "k"]) -> "RotaryEmbedding":
        """The tokens at `indices`."""
        return RotaryEmbedding(self.cos[..., indices, :], self.sin[..., indices, :])


def rotary_embedding(angles: Float[Tensor, "*b tokens pairs"]) -> RotaryEmbedding:
    """Cosines and sines of angles in radians, computed in their dtype and stored as float32."""
    return RotaryEmbedding(angles.cos().float(), angles.sin().float())


def rotary_frequencies(pairs: int, base: float = 10000.0) -> Float[Tensor, "pairs"]:
    """base^(-j / pairs) for j = 0 .. pairs-1, in float64."""
    return base ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))


def split_pairs(pairs: int) -> tuple[int, int, int]:
    """How many channel pairs encode a token's time, row and column: a third each for the latter."""
    spatial = pairs // 3
    return pairs - 2 * spatial, spatial, spatial


def grid_rotary_embedding(
    frames: int, height: int, width: int, head_dim: int, device: torch.device | None = None
) -> RotaryEmbedding:
    """Rotary embedding of a frames x height x width grid of tokens, frame-major.

    Angles are computed in float64 on the CPU (MPS has no float64) and stored as float32.
    """
    time, vertical, horizontal = split_pairs(head_dim // 2)
    t, y, x = torch.meshgrid(
        torch.arange(frames, dtype=torch.float64),
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
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
