"""Augments histories with faded latents, so that errors do not propagate.

A generated view may fade to grey or lose its detail. It is then part of the history, and a model
trained on true histories only copies the fault into every later view. Here some histories are faded
or blurred while their targets stay true, so that the model learns to recover.
"""

import torch
from jaxtyping import Float
from torch import Tensor

FIRST_DETAIL = 3
"""Latent channels are principal components: from this one on they hold detail."""


def fade(
    latents: Float[Tensor, "b *n c h w"], chance: float, rng: torch.Generator | None = None
) -> Float[Tensor, "b *n c h w"]:
    """Draw some latents towards zero, the mean picture.

    With probability `chance` an example fades: half of these as a whole, by one factor; half window
    by window, each with an even chance. Detail fades further than colour.

    Args:
        latents: examples, windows (the second axis, if there is one), frames, channels.
        chance: share of the examples; 0 returns the latents themselves.
        rng: on the CPU.
    """
    if not chance:
        return latents
    batch, channels = latents.shape[0], latents.shape[-3]
    windows = latents.shape[1] if latents.ndim > 4 else 1

    def draw(columns: int) -> Tensor:
        return torch.rand(batch, columns, generator=rng)

    by_window = draw(1) < 0.5
    factor = torch.where(by_window, draw(windows), draw(1))
    faded = (draw(1) < chance) & (~by_window | (draw(windows) < 0.5))
    detail = 1 - faded * draw(1) * draw(windows)
    kept = (1 - faded * (1 - factor))[..., None].expand(-1, -1, channels).clone()
    kept[..., FIRST_DETAIL:] *= detail[..., None]
    middle = (1,) * (latents.ndim - 5)
    shape = (batch, windows, *middle) if latents.ndim > 4 else (batch,)
    return latents * kept.view(*shape, channels, 1, 1).to(latents)
