"""What makes a decoder sharp: features of a pretrained network, fine energy, and a discriminator.

Fine texture cannot be predicted from latents pixel by pixel, so that L1 and squared errors alone
teach a decoder to leave it out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.objects.models.efficientnet import LiteFeatures

AFTER_BLOCKS = (0, 2, 4)
"""Blocks of EfficientNet-lite0 whose outputs are compared, beside the stem's: strides 2 to 8."""
PLAIN = 6.0
"""By which a discriminator's view of fine texture is multiplied: it is faint."""


def high_pass(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images less their mean over 3x3 pixels."""
    return images - F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def energy_loss(output: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]) -> Tensor:
    """L1 distance of the fine texture's deviation over 8x8 pixels, wherever it lies in them."""

    def deviation(images: Tensor) -> Tensor:
        return (F.avg_pool2d(high_pass(images).square().sum(1, keepdim=True), 8, 4) + 1e-4).sqrt()

    return F.l1_loss(deviation(output), deviation(truth))


def perceptual_loss(
    features: LiteFeatures, output: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]
) -> Tensor:
    """Mean L1 distance of feature maps, each in units of its deviation over the batch."""
    with torch.no_grad():
        expected = _maps(features, truth)
    pairs = list(zip(_maps(features, output), expected, strict=True))
    total = sum(F.l1_loss(x, y) / y.std().clamp_min(0.05) for x, y in pairs)
    assert isinstance(total, Tensor)
    return total / len(pairs)


def _maps(features: LiteFeatures, images: Tensor) -> list[Tensor]:
    x = features.stem(images).clamp(0, 6)
    found = [x]
    for number, block in enumerate(features.blocks):
        x = block(x)
        if number in AFTER_BLOCKS:
            found.append(x)
        if number == AFTER_BLOCKS[-1]:
            break
    return found


class PatchDiscriminator(nn.Module):
    """Scores of image patches, true above 0, and the feature maps on the way.

    It sees the images and their fine texture, amplified: on the images alone it never learned to
    tell true ones from smooth ones.

    Args:
        frames: consecutive ones that are judged together, in the channels of one image.
    """

    def __init__(self, frames: int = 1) -> None:
        super().__init__()
        widths = (6 * frames, 48, 64, 128)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, wider, 4, 2, 1)
            for width, wider in zip(widths, widths[1:], strict=False)
        )
        self.norms = nn.ModuleList([nn.Identity(), nn.GroupNorm(8, 64), nn.GroupNorm(8, 128)])
        self.last = nn.Conv2d(128, 1, 3, 1, 1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> tuple[Tensor, list[Tensor]]:
        x = torch.cat([images, PLAIN * high_pass(images)], dim=1)
        maps = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            maps.append(x)
        return self.last(x), maps


def discriminator_loss(true_scores: Tensor, false_scores: Tensor) -> Tensor:
    """The hinge loss (Lim and Ye, arXiv 1705.02894)."""
    return F.relu(1 - true_scores).mean() + F.relu(1 + false_scores).mean()


def train_discriminator(
    discriminator: PatchDiscriminator,
    optimizer: torch.optim.Optimizer,
    truth: Float[Tensor, "b c h w"],
    output: Float[Tensor, "b c h w"],
) -> Tensor:
    """One step, on all processes the same; its loss. `output` is detached by the caller."""
    loss = discriminator_loss(discriminator(truth)[0], discriminator(output)[0])
    optimizer.zero_grad()
    loss.backward()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for parameter in discriminator.parameters():
            assert parameter.grad is not None
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()
    optimizer.step()
    return loss.detach()


def matching_loss(output_maps: list[Tensor], true_maps: list[Tensor]) -> Tensor:
    """Mean L1 distance of a discriminator's feature maps."""
    pairs = zip(output_maps, true_maps, strict=True)
    return torch.stack([F.l1_loss(x, y) for x, y in pairs]).mean()
