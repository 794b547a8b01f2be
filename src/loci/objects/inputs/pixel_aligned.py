"""What the picture shows where a voxel stands.

Once stage 1 has placed an object, every voxel has its pixels. Handed to stage 2 with the noise
(pixel-aligned features; Saito et al., 2019), they spare its attention the search for them: colours
of what is visible come from the picture, and what is left to guess is what the camera did not see.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera
from loci.objects.inputs.preprocess import crop_box, square_crop

PARTS = 8
"""Of a voxel, each with pixels of its own: the cells of the grid twice as fine."""
PER_PART = 5
ALIGNED = PARTS * PER_PART
"""Channels: for every part how far the mask covers it, red, green and blue in [-1, 1] times that,
and how far it lies behind what is nearest to the camera, in [0, 1]."""

FINE = 2.0
"""Cells of the crop that colours are read from, for every voxel along the object."""
COARSE, CLOSE = 1.5, 0.8
"""Cells of the depth buffer, likewise, and at most so many from one part of a voxel to the next: so
large that a surface of voxels has no holes in it."""
DEEP = 4.0
"""In voxels: what lies further behind is as hidden as can be."""


def pixel_aligned(
    places: Float[Tensor, "n 3"],
    width: float,
    camera: Camera,
    rgb: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
) -> Float[Tensor, "n 40"]:
    """The pixels of every voxel of one object.

    Args:
        places: the voxels' middles in the frame of the camera's world.
        width: of a voxel, in the same units, in which the object is about 1 long.
        camera: that took the picture, in the object's frame (`Camera.from_pose`).
        rgb: the whole picture in [0, 1].
        mask: 1 on the object; as wide and high as the picture.

    Returns:
        Rows as `ALIGNED` says; all zeros for a voxel outside the mask or behind the camera, but
        for its depth.

    Raises:
        LociError: when the mask is less than two pixels wide and high.
    """
    corners = torch.cartesian_prod(*(torch.tensor([-0.25, 0.25]),) * 3).to(places)
    parts = (places[:, None] + width * corners).flatten(0, 1)
    x, y, depth = camera.project(parts, (rgb.shape[-2], rgb.shape[-1])).unbind(-1)
    before = depth > width
    crop, box = square_crop(torch.cat([rgb * mask, mask]), mask), crop_box(mask)
    place = torch.stack([x - box.x1, y - box.y1], dim=-1) / crop.shape[-1]
    place = torch.where(before[:, None], place, -1.0)
    side = max(1, round(FINE / width))
    crop = F.interpolate(crop[None], (side, side), mode="bilinear", antialias=True)
    seen = F.grid_sample(crop, (2 * place - 1)[None, None], align_corners=False)[0, :, 0].T
    seen = seen * before[:, None]
    color, covered = 2 * seen[:, :3] - seen[:, 3:], seen[:, 3:]
    # An object seen end-on is small in the picture, and its voxels stand far apart in the crop.
    near = float(depth[before].median()) if before.any() else torch.inf
    apart = width / 2 * camera.focal((rgb.shape[-2], rgb.shape[-1])) / near
    cells = min(COARSE / width, CLOSE * crop.shape[-1] / max(apart, 1e-6))
    hidden = _behind(place, depth, before, max(1, round(cells))) / (DEEP * width)
    rows = torch.cat([covered, color, hidden.clamp(0, 1)[:, None]], dim=1)
    return rows.view(len(places), ALIGNED)


def _behind(
    place: Float[Tensor, "m 2"], depth: Float[Tensor, "m"], before: Tensor, side: int
) -> Float[Tensor, "m"]:
    """How far every point lies behind the nearest in its cell, of `side` along the crop."""
    index = (place * side).floor().long()
    known = before & ((index >= 0) & (index < side)).all(dim=1)
    index = index.clamp(0, side - 1)
    cell = index[:, 1] * side + index[:, 0]
    near = depth.new_full((side**2,), torch.inf)
    near.scatter_reduce_(0, cell, torch.where(known, depth, torch.inf), "amin")
    return torch.where(known, depth - near[cell], torch.inf)
