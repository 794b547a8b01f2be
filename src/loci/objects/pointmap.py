"""Pointmaps: a point in space for every pixel.

Everywhere in loci's objects a pointmap is `[3, h, w]` in the camera frame x left, y up, z forward
(PyTorch3D's); a point that is not finite is invalid.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.errors import LociError


class Normaliser(NamedTuple):
    """normalised = (points - shift) / scale; kept to place the object afterwards."""

    scale: Float[Tensor, "3"]
    shift: Float[Tensor, "3"]

    def apply(self, pointmap: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """The pointmap in object-centred units."""
        return (pointmap - self.shift[:, None, None]) / self.scale[:, None, None]


def from_opencv(pointmap: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """From the frame x right, y down, z forward, as depth networks give it.

    Infinite points, which mark what a depth network does not know, become NaN.
    """
    turned = pointmap * pointmap.new_tensor([-1.0, -1.0, 1.0])[:, None, None]
    return torch.where(turned.isfinite().all(dim=0), turned, torch.nan)


def user_pointmap(points: Tensor, height: int, width: int) -> Float[Tensor, "3 h w"]:
    """A user's `[h', w', 3]` pointmap, brought to the size of the picture by nearest neighbour.

    It must already be in the frame of this module: no sign is changed.

    Raises:
        LociError: for another shape, or when no point is finite.
    """
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
        raise LociError(f"pointmap: expected shape height x width x 3, got {list(points.shape)}")
    if not points.isfinite().all(dim=-1).any():
        raise LociError("pointmap: expected at least one finite point, found none")
    pointmap = points.float().movedim(-1, 0)
    return F.interpolate(pointmap[None], (height, width), mode="nearest")[0]


def normaliser(pointmap: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 h' w'"]) -> Normaliser:
    """Centre on the object, measure by the scene (SAM 3D Objects, 2.2).

    The shift is the median of the masked points on each axis; the scale is the median over all
    points of their largest distance on an axis. Without a finite masked point: 1 and 0. `mask`
    is 1 inside; a mask of 0 and 1/255, which a boolean mask becomes when it is taken for bytes,
    has no inside.
    """
    inside = F.interpolate(mask[None].float(), pointmap.shape[1:], mode="nearest")[0, 0] > 0.5
    points = torch.where(pointmap.isfinite(), pointmap, torch.nan).flatten(1)
    masked = points[:, inside.flatten()]
    if not masked.isfinite().all(dim=0).any():
        return Normaliser(pointmap.new_ones(3), pointmap.new_zeros(3))
    shift = masked.nanmedian(dim=1).values
    # Like the released code's maximum, amax is NaN where any axis is.
    scale = (points - shift[:, None]).abs().amax(dim=0).nanmedian()
    return Normaliser(scale.expand(3).clone(), shift)
