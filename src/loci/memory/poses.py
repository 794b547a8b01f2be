"""Poses by dead reckoning: heading in radians, x and y in cells, and what they average to.

A code stands for many frames. Its pose has a fourth number, the spread of the headings it was
made from, so that it can be addressed as the panorama it is.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def relative_poses(
    poses: Float[Tensor, "b n p"], origin: Float[Tensor, "b 3"]
) -> Float[Tensor, "b n p"]:
    """Poses (heading, x, y) as seen from `origin`: x ahead of it, y to its left, in cells.

    What follows x and y is left as it is.
    """
    heading = poses[..., 0] - origin[:, None, 0]
    dx, dy = (poses[..., 1:3] - origin[:, None, 1:3]).unbind(-1)
    cos, sin = origin[:, None, 0].cos(), origin[:, None, 0].sin()
    ahead, left = dx * cos + dy * sin, -dx * sin + dy * cos
    seen = torch.stack([torch.atan2(heading.sin(), heading.cos()), ahead, left], dim=-1)
    return torch.cat([seen, poses[..., 3:]], dim=-1)


def mean_pose(
    poses: Float[Tensor, "b n p"], weights: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "b 3"]:
    """Circular mean of the headings, mean of the places."""
    if weights is None:
        weights = torch.ones(poses.shape[1], dtype=poses.dtype, device=poses.device)
    w = (weights / weights.sum()).to(poses)[:, None]
    parts = torch.stack(
        [poses[..., 0].cos(), poses[..., 0].sin(), poses[..., 1], poses[..., 2]], dim=-1
    )
    cos, sin, x, y = (parts * w).sum(dim=1).unbind(-1)
    return torch.stack([torch.atan2(sin, cos), x, y], dim=-1)


def view_pose(poses: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 4"]:
    """Pose of a code of level one: the mean, and no spread, since its columns are a camera's."""
    mean = mean_pose(poses)
    return torch.cat([mean, torch.zeros_like(mean[:, :1])], dim=-1)


def panorama_pose(
    poses: Float[Tensor, "b n 4"], weights: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "b 4"]:
    """Pose of a code merged from others: the mean, and the arc that holds all their headings."""
    mean = mean_pose(poses, weights)
    away = poses[..., 0] - mean[:, None, 0]
    reach = torch.atan2(away.sin(), away.cos()).abs() + poses[..., 3] / 2
    spread = 2 * reach.amax(dim=1, keepdim=True)
    return torch.cat([mean, spread.clamp(max=2 * math.pi)], dim=-1)


def with_spread(poses: Float[Tensor, "b n p"]) -> Float[Tensor, "b n 4"]:
    """Poses of frames among those of codes: a frame's heading has no spread."""
    missing = 4 - poses.shape[-1]
    return torch.nn.functional.pad(poses, (0, missing))
