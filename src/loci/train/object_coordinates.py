"""Which place on the object every patch of a crop shows: what teaches the picture's embedder.

A flow that starts from nothing says little to the embedder it listens to. Places in the object's
own frame (normalised object coordinates; Wang et al., 2019) are known wherever a render shows the
object, and tell it about shape and pose at every patch. What reads them is thrown away afterwards.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.objects.conditioning import FuserConfig
from loci.objects.preprocess import square_crop
from loci.train.object_scenes import Scene, Sight

GRID = 16
"""Cells along the side of a crop; what is shown in one of them has one place."""


def coordinates_in_crop(sight: Sight, scene: Scene) -> Float[Tensor, "4 g g"]:
    """Mean place of what the crop shows in each cell, and how much of the cell is
    the object, unhidden and inside the mask.

    Places are in the object's frame, in [-0.5, 0.5].
    """
    r, t, s = sight.placement
    shown = (sight.alpha > 0.5) & (scene.mask > 0.5) & sight.depth.isfinite()
    camera = sight.rays() * torch.where(shown, sight.depth, 0.0)
    places = torch.einsum("chw,dc->dhw", camera - t[:, None, None], r) / s
    held = torch.cat([places * shown, shown.float()])
    pooled = F.adaptive_avg_pool2d(square_crop(held, scene.mask), GRID)
    return torch.cat([pooled[:3] / pooled[3:].clamp(min=1e-6), pooled[3:]])


class CoordinateReader(nn.Module):
    """Reads the places off the tokens of the crop's patches, each by itself.

    Args:
        fuser: of the fuser whose tokens are read; the picture's crop comes first in them.

    Raises:
        ValueError: unless every patch holds as many cells.
    """

    def __init__(self, fuser: FuserConfig) -> None:
        super().__init__()
        size, patch = fuser.picture.input_size, fuser.picture.backbone.patch
        if GRID % (size // patch):
            raise ValueError(f"{size // patch} patches a side, expected a divisor of {GRID}")
        self.patches, self.cells = size // patch, GRID // (size // patch)
        registers = fuser.picture.backbone.registers if fuser.picture.tokens == "prenorm" else 0
        self.first = 1 + registers
        self.out = nn.Linear(fuser.dim, 3 * self.cells**2)

    def forward(self, condition: Float[Tensor, "b m c"]) -> Float[Tensor, "b 3 g g"]:
        tokens = condition[:, self.first : self.first + self.patches**2]
        read = self.out(tokens).mT.unflatten(2, (self.patches, self.patches))
        return F.pixel_shuffle(read, self.cells)


def coordinate_loss(
    found: Float[Tensor, "b 3 g g"], seen: Float[Tensor, "b 4 g g"]
) -> Float[Tensor, ""]:
    """Smooth absolute error, in half object sizes, of the cells that show the object; for every
    object the best of four quarter turns about the vertical.

    Furniture looks alike from its sides: told to choose one, the mean of all is the best answer,
    and nothing is learned.
    """
    places, shown = seen.split([3, 1], dim=1)
    turned = torch.stack([_turned(places, quarters) for quarters in range(4)])
    target = 2 * turned
    error = F.smooth_l1_loss(2 * found.expand_as(target), target, reduction="none", beta=0.1)
    count = (3 * shown.sum(dim=(1, 2, 3))).clamp(min=1e-6)
    return ((error * shown).sum(dim=(2, 3, 4)) / count).amin(dim=0).mean()


def _turned(places: Float[Tensor, "b 3 g g"], quarters: int) -> Float[Tensor, "b 3 g g"]:
    x, y, z = places.unbind(dim=1)
    for _ in range(quarters):
        x, y = -y, x
    return torch.stack([x, y, z], dim=1)
