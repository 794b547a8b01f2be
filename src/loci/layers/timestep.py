"""The sinusoidal code of a diffusion timestep."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def timestep_code(timestep: Float[Tensor, "b"], width: int) -> Float[Tensor, "b width"]:
    """Cosines, then sines, of t * 10000^(-j / (width/2)); float32 (Infinite-World, 2.4).

    `timestep` is on the 0..1000 scale. Formed in float64 on the CPU, since MPS has none.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angles = timestep.detach().cpu().double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float().to(timestep.device)
