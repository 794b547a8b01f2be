"""Codes of level one of whole walks, made once: windows are most of the work of a long history."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.data.latent_walks import LatentWalks
from loci.data.revisits import WINDOW
from loci.memory.compressor import LatentEncoder


@dataclass(frozen=True)
class WindowCodes:
    """The codes of every complete window: clean ones, and ones of a disturbed past.

    They hold as long as the encoder's windows do not change, so those are frozen meanwhile; the
    merges, which start from these codes, go on learning. Kept in half precision on the CPU.
    """

    codes: Float[Tensor, "2 walks windows d k h w"]

    def look_up(
        self, disturbed: Int[Tensor, "b"], walks: Int[Tensor, "b"], starts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n d k h w"]:
        """The codes of windows that begin at the latents `starts`; float32."""
        index = starts // WINDOW
        row = walks[:, None].expand_as(index)
        return self.codes[disturbed[:, None].expand_as(index), row, index].float()


@torch.no_grad()
def window_codes(
    encoder: LatentEncoder, walks: LatentWalks, noise: float, seed: int, batch: int = 64
) -> WindowCodes:
    """Encode all windows of some walks, clean and with noise of up to `noise` on the past."""
    device = encoder.conv_in.weight.device
    generator = torch.Generator().manual_seed(seed)
    count = walks.length // WINDOW
    rows = []
    for walk in range(walks.count):
        past = walks.past[walk, : count * WINDOW].float().unflatten(0, (count, WINDOW))
        poses = walks.reckoned[walk, : count * WINDOW].unflatten(0, (count, WINDOW))
        deviation = noise * torch.rand(count, 1, 1, 1, 1, generator=generator)
        disturbed = past + deviation * torch.randn(past.shape, generator=generator)
        for version in (past, disturbed):
            parts = zip(version.transpose(1, 2).split(batch), poses.split(batch), strict=True)
            made = [encoder.encode(part.to(device), where).half().cpu() for part, where in parts]
            rows.append(torch.cat(made))
    return WindowCodes(torch.stack([torch.stack(rows[0::2]), torch.stack(rows[1::2])]))
