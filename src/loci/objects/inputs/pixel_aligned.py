"""Pixel-aligned features: the pixels at which each voxel is seen.

Once stage 1 has found an object's pose, every voxel projects to known pixels. As inputs of stage 2
(Saito et al., PIFu, 2019) they give visible colours directly, so attention need not learn where to
look.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera
from loci.objects.inputs.preprocess import crop_box, square_crop

OCTANTS = 8
"""Each voxel has features for each of its octants."""
OCTANT_CHANNELS = 5
"""Mask coverage; red, green and blue in [-1, 1] times the coverage; depth behind the nearest point
of the object in the same direction, in [0, 1]."""
ALIGNED_CHANNELS = OCTANTS * OCTANT_CHANNELS

COLOR_CELLS = 2.0
"""Cells of the resized crop per voxel, of which colours are sampled."""
DEPTH_CELLS, MAX_DEPTH_CELLS = 1.5, 0.8
"""Cells of the depth buffer per voxel, and their largest number as a factor of the resized crop's
side over the pixels between two octants: so coarse that a surface of voxels leaves no gaps."""
MAX_DEPTH = 4.0
"""Depth behind the nearest point, in voxels, at which the feature is 1."""


def pixel_aligned(
    centers: Float[Tensor, "n 3"],
    voxel_size: float,
    camera: Camera,
    rgb: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
) -> Float[Tensor, "n 40"]:
    """The features of every voxel of one object.

    Args:
        centers: of the voxels in the object frame, in which the object is about 1 long.
        voxel_size: side of a voxel, in the same units.
        camera: of the picture, in the object frame (`Camera.from_pose`).
        rgb: the whole picture in [0, 1].
        mask: 1 on the object, at the size of the picture.

    Returns:
        `OCTANT_CHANNELS` for every octant. Outside the mask and behind the camera all but the
        depths are 0.

    Raises:
        LociError: when the mask is less than two pixels wide and high.
    """
    offsets = torch.cartesian_prod(*(torch.tensor([-0.25, 0.25]),) * 3).to(centers)
    octants = (centers[:, None] + voxel_size * offsets).flatten(0, 1)
    x, y, depth = camera.project(octants, (rgb.shape[-2], rgb.shape[-1])).unbind(-1)
    in_front = depth > voxel_size
    crop, box = square_crop(torch.cat([rgb * mask, mask]), mask), crop_box(mask)
    position = torch.stack([x - box.x1, y - box.y1], dim=-1) / crop.shape[-1]
    position = torch.where(in_front[:, None], position, -1.0)
    side = max(1, round(COLOR_CELLS / voxel_size))
    resized = F.interpolate(crop[None], (side, side), mode="bilinear", antialias=True)
    grid = (2 * position - 1)[None, None]
    sampled = F.grid_sample(resized, grid, align_corners=False)[0, :, 0].T
    sampled = sampled * in_front[:, None]
    color, coverage = 2 * sampled[:, :3] - sampled[:, 3:], sampled[:, 3:]
    # The distance is in pixels of the picture and the side in cells of the resized crop, as `home`
    # was trained: with larger pictures the depth buffer becomes coarser.
    near = float(depth[in_front].median()) if in_front.any() else torch.inf
    pixels = voxel_size / 2 * camera.focal((rgb.shape[-2], rgb.shape[-1])) / near
    cells = min(DEPTH_CELLS / voxel_size, MAX_DEPTH_CELLS * side / max(pixels, 1e-6))
    behind = _depth_behind(position, depth, in_front, max(1, round(cells)))
    behind = (behind / (MAX_DEPTH * voxel_size)).clamp(0, 1)
    features = torch.cat([coverage, color, behind[:, None]], dim=1)
    return features.view(len(centers), ALIGNED_CHANNELS)


def _depth_behind(
    position: Float[Tensor, "m 2"],
    depth: Float[Tensor, "m"],
    in_front: Bool[Tensor, "m"],
    side: int,
) -> Float[Tensor, "m"]:
    """Depth behind the nearest point in the same of `side` x `side` cells of the crop."""
    index = (position * side).floor().long()
    known = in_front & ((index >= 0) & (index < side)).all(dim=1)
    index = index.clamp(0, side - 1)
    cell = index[:, 1] * side + index[:, 0]
    nearest = depth.new_full((side**2,), torch.inf)
    nearest.scatter_reduce_(0, cell, torch.where(known, depth, torch.inf), "amin")
    return torch.where(known, depth - nearest[cell], torch.inf)
