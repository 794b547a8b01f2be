"""The video autoencoder of the published model (Wan 2.1), as a stream.

The layers are those of diffusers, which keeps the state of causal convolutions on the module. Here
it is passed in and returned, so that one instance serves many walks, a walk can be forked, and
encoding 80 more frames costs the same however long the walk is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.codecs.base import CodecState
from loci.codecs.tiles import Tile, tiles
from loci.codecs.wan_parts import (
    Slots,
    decode_tiled,
    decoder_halo,
    early_features,
    encode_early,
    encode_late,
    encoder_halo,
    encoder_history,
)
from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME, load_config
from loci.io.models import pretrained_folder
from loci.io.weights import WEIGHTS_NAME, load_strict, read_tensors, save_pretrained

# What diffusers writes into the slot of a temporal upsampling after the first latent. In a state,
# which consists of tensors, an empty tensor stands for it.
AFTER_FIRST_LATENT = "Rep"
FRAMES = "frames"
"""In a state: the last frames, in place of what the convolutions at high resolution remember."""
SMALL_STATE = 192 * 192
"""Pixels of frames up to which a state holds everything that the encoder remembers, as it is:
some 190 MB there, and 2.2 GB at 448x896."""
LARGEST_TILE = 3200
"""Latents of a tile, with its surroundings: a square of 450 pixels."""


@dataclass(frozen=True)
class WanCodecConfig:
    """Sizes of the published autoencoder by default."""

    base_dim: int = 96
    latent_channels: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks_per_level: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    # fmt: off
    latents_mean: tuple[float, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )
    latents_std: tuple[float, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )
    # fmt: on


class WanCodec(nn.Module):
    """Implements the Codec protocol: 1 + 4k frames to 1 + k latents of an eighth the size."""

    frames_are_independent = False
    network: Any

    def __init__(self, config: WanCodecConfig | None = None):
        super().__init__()
        self.config = config = config or WanCodecConfig()
        self.temporal_factor = 2 ** sum(config.temporal_downsample)
        self.spatial_factor = 2 ** (len(config.dim_mult) - 1)
        self.latent_channels = config.latent_channels
        self.network = _network(config)

    @torch.no_grad()
    def encode_stream(
        self, frames: Float[Tensor, "b 3 t h w"], state: CodecState | None = None
    ) -> tuple[Float[Tensor, "b c tl hl wl"], CodecState]:
        """Normalised posterior mode of the next frames; see the protocol."""
        pieces = list(frames.split(self._piece_lengths(frames, first=state is None), dim=2))
        encoder, state = self.network.encoder, state or {}
        slots = _opened(encoder, {name: t for name, t in state.items() if name != FRAMES})
        part = self._tiles(frames.shape, encoder=True)
        kept = state.get(FRAMES)
        if kept is not None or (len(part) > 1 and not state):
            history = [] if kept is None else self._history(kept.to(frames.dtype))
            features, first = early_features(encoder, pieces, history, len(slots), part)
        else:
            features, first = [], 0
            for piece in pieces:
                x, first = encode_early(encoder, piece, slots)
                features.append(x)
        latents = []
        while features:
            x = encode_late(encoder, features.pop(0), slots, first)
            latents.append(self.network.quant_conv(x)[:, : self.latent_channels])
        mean, std = self._statistics(latents[0])
        return (
            (torch.cat(latents, dim=2) - mean) / std,
            self._small_state(frames, kept, slots, first, whole=not state),
        )

    def _small_state(
        self, frames: Tensor, kept: Tensor | None, slots: Slots, first: int, whole: bool
    ) -> CodecState:
        """The slots, or where they are large the last frames, from which those at high resolution
        can be recomputed, and the others in bfloat16."""
        closed = _closed(slots)
        pixels = frames.shape[-2] * frames.shape[-1]
        if kept is None and (pixels <= SMALL_STATE or not whole):
            return closed
        past = frames if kept is None else torch.cat([kept.to(frames), frames], dim=2)
        count = min(past.shape[2], encoder_history(self.config.temporal_downsample, self._blocks))
        small = {
            name: slot.to(torch.bfloat16) if slot.is_floating_point() else slot
            for name, slot in closed.items()
            if int(name) >= first
        }
        # Halves have 11 bits, enough for what becomes 8 bits a colour; the clone lets the rest go.
        return {**small, FRAMES: past[:, :, -count:].to(torch.float16, copy=True)}

    @property
    def _blocks(self) -> int:
        return self.config.blocks_per_level

    def _history(self, kept: Tensor) -> list[Tensor]:
        """Kept frames in the pieces that the encoder takes of a clip that begins with them."""
        return list(kept.split(self._piece_lengths(kept, first=True), dim=2))

    def _tiles(self, shape: torch.Size, encoder: bool) -> list[Tile]:
        """Of pictures of this shape (of latents, for the decoder), on the grid of latents."""
        levels, side = len(self.config.dim_mult), self.spatial_factor
        if encoder:
            halo = encoder_halo(levels, self._blocks, side)
            return tiles(shape[-2] // side, shape[-1] // side, halo, LARGEST_TILE)
        return tiles(shape[-2], shape[-1], decoder_halo(levels, self._blocks), LARGEST_TILE)

    @torch.no_grad()
    def decode_stream(
        self, latents: Float[Tensor, "b c tl hl wl"], state: CodecState | None = None
    ) -> tuple[Float[Tensor, "b 3 t h w"], CodecState]:
        """Frames of the next latents, clamped to [-1, 1]; see the protocol."""
        if latents.shape[1] != self.latent_channels or latents.shape[2] == 0:
            raise LociError(
                f"latents of shape {list(latents.shape)}: expected {self.latent_channels} "
                "channels and at least one in time"
            )
        mean, std = self._statistics(latents)
        decoder = self.network.decoder
        slots = _opened(decoder, state)
        frames = []
        for index, latent in enumerate((latents * std + mean).split(1, dim=2)):
            frames.append(
                decoder(
                    self.network.post_quant_conv(latent),
                    feat_cache=slots,
                    feat_idx=[0],
                    first_chunk=state is None and index == 0,
                )
            )
        return torch.cat(frames, dim=2).clamp(-1, 1), _closed(slots)

    def encode(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c tl hl wl"]:
        """Normalised posterior mode of a whole clip of 1 + 4k frames."""
        return self.encode_stream(frames)[0]

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c tl hl wl"]) -> Float[Tensor, "b 3 t h w"]:
        """Frames of a whole clip of 1 + k latents, clamped to [-1, 1]."""
        part = self._tiles(latents.shape, encoder=False)
        if len(part) == 1:
            return self.decode_stream(latents)[0]
        mean, std = self._statistics(latents)
        inner = [self.network.post_quant_conv(x) for x in (latents * std + mean).split(1, dim=2)]
        decoder = self.network.decoder
        return decode_tiled(decoder, inner, len(_opened(decoder, None)), part).clamp(-1, 1)

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Writes `config.json` and `model.safetensors`, floating weights as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: Path | str) -> WanCodec:
        """From a folder or hub id, in evaluation mode. Raises LociError naming every missing,
        unexpected or misshapen tensor."""
        folder = pretrained_folder(source)
        with torch.device("meta"):
            codec = cls(load_config(folder / CONFIG_NAME, WanCodecConfig))
        load_strict(codec, read_tensors(folder / WEIGHTS_NAME), str(folder / WEIGHTS_NAME))
        return codec.eval().requires_grad_(False)

    def _piece_lengths(self, frames: Tensor, first: bool) -> list[int]:
        """The groups of frames that one pass of the encoder takes: 1, 4, 4, ..."""
        _, channels, count, height, width = frames.shape
        factor, side = self.temporal_factor, self.spatial_factor
        if channels != 3 or height % side or width % side:
            raise LociError(
                f"frames of {channels} channels and {height}x{width} pixels: expected 3 channels "
                f"and a size divisible by {side}"
            )
        groups, rest = divmod(count - first, factor)
        if count == 0 or rest:
            expected = f"1 + {factor}k" if first else f"{factor}k"
            raise LociError(f"{count} frames to encode: expected {expected}")
        return [1] * first + [factor] * groups

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean, std = like.new_tensor((self.config.latents_mean, self.config.latents_std))
        return mean.view(shape), std.view(shape)


def _network(config: WanCodecConfig) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=config.base_dim,
        z_dim=config.latent_channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.blocks_per_level,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.latents_mean),
        latents_std=list(config.latents_std),
    )


def _opened(half: nn.Module, state: CodecState | None) -> Slots:
    """A fresh list of slots, one for each causal convolution, for one call to fill."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    slots: Slots = [None] * sum(isinstance(module, WanCausalConv3d) for module in half.modules())
    for name, tensor in (state or {}).items():
        wide = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
        slots[int(name)] = wide if tensor.numel() else AFTER_FIRST_LATENT
    return slots


def _closed(slots: Slots) -> CodecState:
    """The slots as named tensors; one that was not used has no name."""
    return {
        str(index): slot if isinstance(slot, Tensor) else torch.empty(0)
        for index, slot in enumerate(slots)
        if slot is not None
    }
