"""Our convolutional autoencoder against that of diffusers, whose weights it takes."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from loci.codecs.autoencoder import ConvAutoencoder


@pytest.mark.parametrize("widths", [(16,), (8, 16), (8, 16, 24)], ids=str)
@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_it_is_the_autoencoder_of_diffusers(widths: tuple[int, ...], blocks: int) -> None:
    torch.manual_seed(0)
    levels = len(widths)
    kind: Any = AutoencoderKL
    reference = kind(
        in_channels=12,
        out_channels=12,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=blocks,
        latent_channels=5,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    for parameter in reference.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ours = ConvAutoencoder(12, 5, widths, blocks, groups=4)
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 12, 8, 16)
    means = reference.encoder(images)[:, :5]
    torch.testing.assert_close(ours.encode(images), means, rtol=1e-4, atol=1e-5)
    decoded = reference.decoder(means)
    assert decoded.shape == images.shape
    torch.testing.assert_close(ours.decode(means), decoded, rtol=1e-4, atol=1e-5)


def test_a_shipped_model_needs_no_diffusers() -> None:
    code = (
        "import sys; from loci.world.world import World; World.from_pretrained('doom'); "
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
