"""Fixed sines and cosines of a voxel's place, added to its token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
