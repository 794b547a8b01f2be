"""Per-frame convolutional autoencoder with a linear (PCA) skip path, cheap enough for a CPU.

A convolutional autoencoder works on pixel-unshuffled frames, so that no convolution runs
at full resolution. Beside it a linear path maps each patch to its latent and back; it is set to the
principal components of the training patches, and the network learns the residual.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from loci.codecs.autoencoder import ConvAutoencoder
from loci.codecs.base import CodecState
from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME, load_config
from loci.io.models import pretrained_folder
from loci.io.weights import WEIGHTS_NAME, load_strict, read_tensors, save_pretrained

FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class FrameCodecConfig:
    """Sizes of the codec.

    Args:
        patch_size: pixels on a side that the pixel-unshuffle puts into channels.
        widths: channels at each resolution; every one after the first halves it again.
        layers_per_block: residual blocks per resolution.
        norm_groups: of the group norms.
        latent_channels: channels of the latents.
        linear_encoder: the encoder is the linear path alone, and the network only decodes.
        latents_mean, latents_std: per channel, measured after training; empty for 0 and 1.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"fold": "patch_size"}

    patch_size: int = 8
    widths: tuple[int, ...] = (128,)
    layers_per_block: int = 1
    norm_groups: int = 16
    latent_channels: int = 16
    linear_encoder: bool = False
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    @property
    def spatial_factor(self) -> int:
        return self.patch_size * 2 ** (len(self.widths) - 1)


class FrameCodec(nn.Module):
    """Implements the Codec protocol with temporal factor 1; its stream state is empty."""

    frames_are_independent = True
    latents_mean: Tensor
    latents_std: Tensor
    network: ConvAutoencoder

    def __init__(self, config: FrameCodecConfig | None = None):
        super().__init__()
        self.config = config = config or FrameCodecConfig()
        self.temporal_factor = 1
        self.spatial_factor = config.spatial_factor
        self.latent_channels = config.latent_channels
        self.network = ConvAutoencoder(
            channels=3 * config.patch_size**2,
            latent_channels=config.latent_channels,
            widths=config.widths,
            blocks=config.layers_per_block,
            groups=config.norm_groups,
            encodes=not config.linear_encoder,
        )
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        patch = 3 * self.spatial_factor**2
        self.analysis = nn.Conv2d(patch, config.latent_channels, 1)
        self.synthesis = nn.Conv2d(config.latent_channels, patch, 1)
        self.set_normalization(config.latents_mean, config.latents_std)

    def set_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Mean and deviation per channel of the raw latents; empty means 0 and 1."""
        shape = (1, self.latent_channels, 1, 1)
        device = self.analysis.weight.device
        values = [mean or (0.0,) * self.latent_channels, std or (1.0,) * self.latent_channels]
        for name, value in zip(("latents_mean", "latents_std"), values, strict=True):
            tensor = torch.tensor(value, device=device).view(shape)
            self.register_buffer(name, tensor, persistent=False)
        self.config = replace(self.config, latents_mean=tuple(mean), latents_std=tuple(std))

    @torch.no_grad()
    def set_linear_path(self, patches: Float[Tensor, "n patch"]) -> None:
        """Set the linear path to the principal components of patches, and the outputs of the
        network to zero.

        Components get unit deviation; with `linear_encoder` the square root of their own, scaled
        to a mean variance of 1, so that layout outweighs texture in a loss on latents.

        Args:
            patches: pixel-unshuffled by `spatial_factor`, one to a row.
        """
        mean = patches.mean(0)
        _, spread, directions = torch.linalg.svd(patches - mean, full_matrices=False)
        keep = self.latent_channels
        scale = spread[:keep] / len(patches) ** 0.5
        outputs = [self.network.decoder.conv_out]
        if self.config.linear_encoder:
            scale = (scale * scale.mean()).sqrt()
        else:
            outputs.append(self.network.encoder.conv_out)
        analysis = directions[:keep] / scale[:, None]
        self.analysis.weight.copy_(analysis[:, :, None, None])
        assert self.analysis.bias is not None
        assert self.synthesis.bias is not None
        self.analysis.bias.copy_(-analysis @ mean)
        self.synthesis.weight.copy_((directions[:keep] * scale[:, None]).T[:, :, None, None])
        self.synthesis.bias.copy_(mean)
        for output in outputs:
            for parameter in output.parameters():
                parameter.zero_()

    def to_latents(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c hl wl"]:
        """Raw latents (not normalised)."""
        patches = _channels_last(F.pixel_unshuffle(frames, self.spatial_factor))
        if self.config.linear_encoder:
            return self.analysis(patches)
        unshuffled = _channels_last(F.pixel_unshuffle(frames, self.config.patch_size))
        return self.network.encode(unshuffled) + self.analysis(patches)

    def to_frames(self, latents: Float[Tensor, "n c hl wl"]) -> Float[Tensor, "n 3 h w"]:
        """Frames of raw latents, not clamped."""
        latents = _channels_last(latents)
        frames = F.pixel_shuffle(self.network.decode(latents), self.config.patch_size)
        return frames + F.pixel_shuffle(self.synthesis(latents), self.spatial_factor)

    def forward(
        self,
        frames: Float[Tensor, "n 3 h w"],
        noise: Float[Tensor, "n c hl wl"],
        kept: Float[Tensor, "n c 1 1"] | float = 1.0,
    ) -> Float[Tensor, "n 3 h w"]:
        """Reconstruct frames through degraded latents, for training.

        Args:
            frames: in [-1, 1].
            noise: in units of each channel's deviation, so that larger latents do not reduce it.
            kept: factor of the latents before noise is added.
        """
        latents = self.to_latents(frames)
        spread = latents.detach().std(dim=(0, 2, 3), keepdim=True)
        return self.to_frames(kept * latents + noise * spread)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c t hl wl"]:
        """Normalised latents, one per frame. Raises LociError if the spatial factor does not
        divide the size."""
        batch, channels, _, height, width = frames.shape
        factor = self.spatial_factor
        if channels != 3 or height % factor or width % factor:
            raise LociError(
                f"frames of {channels} channels and {height}x{width} pixels: expected 3 channels "
                f"and a size divisible by {factor}"
            )
        flat = frames.transpose(1, 2).flatten(0, 1)
        latents = torch.cat([self.to_latents(part) for part in flat.split(FRAMES_AT_ONCE)])
        latents = (latents - self.latents_mean) / self.latents_std
        return latents.contiguous().unflatten(0, (batch, -1)).transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b 3 t h w"]:
        """Frames in [-1, 1], one per latent."""
        if latents.shape[1] != self.latent_channels:
            raise LociError(
                f"latents of {latents.shape[1]} channels: expected {self.latent_channels}"
            )
        flat = latents.transpose(1, 2).flatten(0, 1) * self.latents_std + self.latents_mean
        frames = torch.cat([self.to_frames(part) for part in flat.split(FRAMES_AT_ONCE)])
        frames = frames.clamp(-1, 1).contiguous()
        return frames.unflatten(0, (latents.shape[0], -1)).transpose(1, 2).contiguous()

    def encode_stream(
        self, frames: Float[Tensor, "b 3 t h w"], state: CodecState | None = None
    ) -> tuple[Float[Tensor, "b c t hl wl"], CodecState]:
        """Frames are independent: `encode`, and an empty state."""
        return self.encode(frames), {}

    def decode_stream(
        self, latents: Float[Tensor, "b c t hl wl"], state: CodecState | None = None
    ) -> tuple[Float[Tensor, "b 3 t h w"], CodecState]:
        """Latents are independent: `decode`, and an empty state."""
        return self.decode(latents), {}

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Writes `config.json` and `model.safetensors`, floating weights as `dtype` if given."""
        save_pretrained(folder, self.config, self, dtype)

    @classmethod
    def from_pretrained(cls, source: Path | str) -> FrameCodec:
        """From a folder or hub id; float32, in evaluation mode. Raises LociError naming every
        missing, unexpected or misshapen tensor."""
        folder = pretrained_folder(source)
        codec = cls(load_config(folder / CONFIG_NAME, FrameCodecConfig))
        load_strict(codec, read_tensors(folder / WEIGHTS_NAME), str(folder / WEIGHTS_NAME))
        return codec.eval().requires_grad_(False)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
