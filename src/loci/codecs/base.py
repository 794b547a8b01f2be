"""The codec protocol: what a rollout needs of an autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

CodecState = Mapping[str, Tensor]
"""What a stream has to remember. Never changed in place: every call returns a new one, so an
older state stays good to fork from, and plain tensors can be saved with a walk."""


class Codec(Protocol):
    """A causal autoencoder of clips: frames in [-1, 1] to normalised latents and back.

    The first frame of a clip becomes one latent, after it every `temporal_factor` frames become
    one. Latents have mean 0 and deviation 1 per channel over the training data.
    """

    config: Any
    temporal_factor: int
    spatial_factor: int
    latent_channels: int
    frames_are_independent: bool
    """Whether each frame is encoded and decoded by itself, so that some can be and others not."""

    def encode(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c tl hl wl"]:
        """A whole clip, t = 1 + temporal_factor * k frames. Raises LociError on other lengths
        and on sizes that `spatial_factor` does not divide."""
        ...

    def encode_stream(
        self, frames: Float[Tensor, "b 3 t h w"], state: CodecState | None = None
    ) -> tuple[Float[Tensor, "b c tl hl wl"], CodecState]:
        """A clip in pieces, equal to `encode` of the whole: first 1 + temporal_factor * k
        frames, then temporal_factor * k frames with the state returned last."""
        ...

    def decode(self, latents: Float[Tensor, "b c tl hl wl"]) -> Float[Tensor, "b 3 t h w"]:
        """From a clean start: the first latent gives one frame. Clamped to [-1, 1]."""
        ...

    def decode_stream(
        self, latents: Float[Tensor, "b c tl hl wl"], state: CodecState | None = None
    ) -> tuple[Float[Tensor, "b 3 t h w"], CodecState]:
        """Latents in pieces of any length, equal to `decode` of the whole."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The weights, by name."""
        ...

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`."""
        ...
