"""A convolutional autoencoder: residual blocks at every resolution, in plain PyTorch.

Its tensors have the names of the encoder and decoder of diffusers' `AutoencoderKL` (without
attention), whose weights it loads and whose outputs it gives.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-6


class ConvResidualBlock(nn.Module):
    """Twice (group norm, SiLU, 3x3 convolution), plus the input."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, EPS)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, EPS)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        inner = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(inner)))


class Downsample(nn.Module):
    """Half the resolution, by a strided convolution padded at the right and at the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution, by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, then perhaps a change of resolution."""

    def __init__(self, resnets: list[nn.Module], **resample: nn.Module) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        for name, layer in resample.items():
            setattr(self, name, nn.ModuleList([layer]))
        self._resample = list(resample)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        for name in self._resample:
            x = getattr(self, name)[0](x)
        return x


class Encoder(nn.Module):
    """Images to twice the latent channels, of which the first half are means."""

    def __init__(
        self, channels: int, out: int, widths: Sequence[int], blocks: int, groups: int
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        levels, width = [], widths[0]
        for index, wider in enumerate(widths):
            first = ConvResidualBlock(width, wider, groups)
            more = [ConvResidualBlock(wider, wider, groups) for _ in range(blocks - 1)]
            last = index + 1 == len(widths)
            levels.append(
                Level([first, *more], **({} if last else {"downsamplers": Downsample(wider)}))
            )
            width = wider
        self.down_blocks = nn.ModuleList(levels)
        self.mid_block = Level([ConvResidualBlock(width, width, groups) for _ in range(2)])
        self.conv_norm_out = nn.GroupNorm(groups, width, EPS)
        self.conv_out = nn.Conv2d(width, 2 * out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hl wl"]:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(
        self, channels: int, out: int, widths: Sequence[int], blocks: int, groups: int
    ) -> None:
        super().__init__()
        width = widths[-1]
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.mid_block = Level([ConvResidualBlock(width, width, groups) for _ in range(2)])
        levels = []
        for index, narrower in enumerate(reversed(widths)):
            first = ConvResidualBlock(width, narrower, groups)
            more = [ConvResidualBlock(narrower, narrower, groups) for _ in range(blocks)]
            last = index + 1 == len(widths)
            levels.append(
                Level([first, *more], **({} if last else {"upsamplers": Upsample(narrower)}))
            )
            width = narrower
        self.up_blocks = nn.ModuleList(levels)
        self.conv_norm_out = nn.GroupNorm(groups, width, EPS)
        self.conv_out = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b d h w"]:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class ConvAutoencoder(nn.Module):
    """Encoder and decoder; only the means of the latents are used.

    Args:
        channels: of the images.
        latent_channels: of the latents.
        widths: channels at each resolution, every one half of that before.
        blocks: residual blocks per resolution of the encoder; the decoder has one more.
        groups: of the group norms.
        encodes: with False there is no encoder, and `encode` raises AttributeError.
    """

    encoder: Encoder

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        encodes: bool = True,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        if encodes:
            self.encoder = Encoder(channels, latent_channels, widths, blocks, groups)
        self.decoder = Decoder(latent_channels, channels, widths, blocks, groups)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l hl wl"]:
        """Means of the latents."""
        return self.encoder(images)[:, : self.latent_channels]

    def decode(self, latents: Float[Tensor, "b l hl wl"]) -> Float[Tensor, "b c h w"]:
        """Images of latents."""
        return self.decoder(latents)
