"""Sinusoidal embeddings of timesteps and positions."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


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
