"""The sinusoidal code of a diffusion timestep, and a small network on top of it."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def timestep_code(timestep: Float[Tensor, "b"], width: int) -> Float[Tensor, "b width"]:
    """Cosines, then sines, of t * 10000^(-j / (width/2)); float32 (Infinite-World, 2.4).

    `timestep` is on the 0..1000 scale. Formed in float64 on the CPU, since MPS has none.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angles = timestep.detach().cpu().double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float().to(timestep.device)


class TimestepEmbedder(nn.Module):
    """The code, then linear, SiLU, linear (SAM 3D Objects, 4.2)."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timestep: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """`timestep` is on the 0..1000 scale; the result has the type of the weights."""
        code = timestep_code(timestep.float(), self.frequencies)
        return self.mlp(code.to(next(self.mlp.parameters()).dtype))


def sincos_positions(coords: Int[Tensor, "n axes"], width: int) -> Float[Tensor, "n width"]:
    """For each axis [sin(p f), cos(p f)], the axes joined, zeros up to the width; float32.

    The frequencies are 10000^(-i/F) with F = width // axes // 2 (SAM 3D Objects, 4.1).
    """
    count = width // coords.shape[1] // 2
    steps = torch.arange(count, dtype=torch.float32, device=coords.device) / count
    angles = coords.float()[..., None] * (1.0 / 10000**steps)
    code = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return torch.nn.functional.pad(code, (0, width - code.shape[1]))


def cube_positions(resolution: int, width: int) -> Float[Tensor, "n width"]:
    """Those of a cube's voxels in row-major (x, y, z) order; made on the CPU."""
    axis = torch.arange(resolution, device="cpu")
    return sincos_positions(torch.cartesian_prod(axis, axis, axis), width)
