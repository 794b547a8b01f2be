"""Latents as tokens: one for every 2x2 latents of a frame, frame after frame, row after row."""

import torch
from jaxtyping import Float
from torch import Tensor

PATCH = 2


def to_tokens(latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n p"]:
    """The four latents of every patch side by side, as the transformer's head gives them.

    n = t (h / 2) (w / 2), p = 4 c.
    """
    batch, channels, frames, height, width = latents.shape
    grid = (frames, height // PATCH, PATCH, width // PATCH, PATCH)
    x = latents.reshape(batch, channels, *grid).permute(0, 2, 3, 5, 4, 6, 1)
    return x.reshape(batch, -1, PATCH * PATCH * channels)


def to_latents(tokens: Float[Tensor, "b n p"], shape: torch.Size) -> Float[Tensor, "b c t h w"]:
    """The inverse: tokens as latents of a shape `[b, c, t, h, w]`."""
    batch, channels, frames, height, width = shape
    grid = (frames, height // PATCH, width // PATCH, PATCH, PATCH, channels)
    x = tokens.reshape(batch, *grid).permute(0, 6, 1, 2, 4, 3, 5)
    return x.reshape(batch, channels, frames, height, width)
