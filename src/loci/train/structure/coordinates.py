"""Object coordinates of every patch of a crop: an extra target that teaches the picture's embedder.

A flow that starts from nothing gives its embedder little gradient. Normalised object coordinates
(Wang et al., 2019) are known wherever a render shows the object, and tell about shape and pose at
every patch. The head that predicts them is thrown away after training.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.objects.inputs.preprocess import square_crop
from loci.objects.models.condition import FuserConfig
from loci.train.structure.scenes import ObjectView, SyntheticScene

GRID = 16
"""Cells along the side of a crop; each has one object coordinate."""


def crop_coordinates(view: ObjectView, scene: SyntheticScene) -> Float[Tensor, "4 g g"]:
    """Mean object coordinates of what the crop shows in each cell, in [-0.5, 0.5], and the share of
    the cell that is the object, unhidden and inside the mask."""
    r, t, s = view.placement
    shown = (view.alpha > 0.5) & (scene.mask > 0.5) & view.depth.isfinite()
    camera = view.rays() * torch.where(shown, view.depth, 0.0)
    coordinates = torch.einsum("chw,dc->dhw", camera - t[:, None, None], r) / s
    weighted = torch.cat([coordinates * shown, shown.float()])
    pooled = F.adaptive_avg_pool2d(square_crop(weighted, scene.mask), GRID)
    return torch.cat([pooled[:3] / pooled[3:].clamp(min=1e-6), pooled[3:]])


class CoordinateHead(nn.Module):
    """Predicts object coordinates from the tokens of the crop's patches, each by itself.

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
        predicted = self.out(tokens).mT.unflatten(2, (self.patches, self.patches))
        return F.pixel_shuffle(predicted, self.cells)


def coordinate_loss(
    predicted: Float[Tensor, "b 3 g g"], truth: Float[Tensor, "b 4 g g"]
) -> Float[Tensor, ""]:
    """Smooth absolute error, in half object sizes, of the cells that show the object; for every
    object the best of four quarter turns about the vertical.

    Furniture looks alike from its sides: with one of them given as the target, the mean of all is
    the best prediction, and nothing is learned.
    """
    coordinates, shown = truth.split([3, 1], dim=1)
    turned = torch.stack([_turned(coordinates, quarters) for quarters in range(4)])
    target = 2 * turned
    error = F.smooth_l1_loss(2 * predicted.expand_as(target), target, reduction="none", beta=0.1)
    count = (3 * shown.sum(dim=(1, 2, 3))).clamp(min=1e-6)
    return ((error * shown).sum(dim=(2, 3, 4)) / count).amin(dim=0).mean()


def _turned(coordinates: Float[Tensor, "b 3 g g"], quarters: int) -> Float[Tensor, "b 3 g g"]:
    x, y, z = coordinates.unbind(dim=1)
    for _ in range(quarters):
        x, y = -y, x
    return torch.stack([x, y, z], dim=1)
