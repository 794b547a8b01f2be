"""Time grids, and how loud the noise is at their beginning.

Noise level s runs from 1 (noise) to 0 (data); timestep = 1000 s. SAM 3D Objects counts the other
way: its time t = 1 - s runs from 0 (noise) to 1 (data), and its networks take 1000 t.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

TIMESTEPS = 1000


def check_temperature(temperature: float) -> None:
    """Raises ValueError for what noise cannot be multiplied by."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: {temperature}, expected a number from 0 on")


def shift(level: Float[Tensor, "*n"], factor: float) -> Float[Tensor, "*n"]:
    """s -> f s / (1 + (f - 1) s): spends more of the grid near noise when factor > 1."""
    return factor * level / (1 + (factor - 1) * level)


def euler_timesteps(steps: int, factor: float, even: bool = False) -> Float[Tensor, "steps"]:
    """Timesteps on the 1000..0 scale for a run of `steps` evaluations.

    As released: equally spaced from 1000 down to 1, then shifted (Infinite-World, 7). With
    `even` the grid is 1000 down to 1000 / steps, so that all steps are equally long before the
    shift: with few steps the released grid spends one of them on the last thousandth. The run
    ends at 0, which is not listed.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    last = TIMESTEPS / steps if even else 1
    levels = torch.linspace(TIMESTEPS, last, steps, dtype=torch.float32) / TIMESTEPS
    return shift(levels, factor) * TIMESTEPS


def rescaled_times(
    steps: int, factor: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "steps+1"]:
    """Times from 0 (noise) to 1 (data), both included: t = u / (1 + (r - 1)(1 - u)), u = i / steps.

    A factor r above 1 spends more of the grid near noise; 1 and 0 leave it even (SAM 3D Objects,
    5). The released grids are in float64 for stage 1 and in float32 for stage 2.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    u = torch.linspace(0, 1, steps + 1, dtype=dtype)
    return u / (1 + (factor - 1) * (1 - u)) if factor else u


def sample_levels(
    batch: int,
    factor: float,
    generator: torch.Generator | None = None,
    logit_mean: float | None = None,
) -> Float[Tensor, "batch"]:
    """Random noise levels for training in (0, 1), shifted.

    Uniform before the shift, or logit-normal with unit deviation when `logit_mean` is given.
    """
    if logit_mean is None:
        level = torch.rand(batch, generator=generator)
    else:
        level = torch.sigmoid(torch.randn(batch, generator=generator) + logit_mean)
    return shift(level, factor)
