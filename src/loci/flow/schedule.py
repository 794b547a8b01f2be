"""Time grids. Noise level s runs from 1 (noise) to 0 (data); timestep = 1000 s."""

import torch
from jaxtyping import Float
from torch import Tensor

TIMESTEPS = 1000


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
