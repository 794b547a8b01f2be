"""Turns about the vertical after which an object looks as before: no picture tells them apart."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.surface_distance import nearest_distances
from loci.train.structure_exam import degrees_apart

STEPS = 24
"""Turns that are tried, evenly around the circle: of a bowl, errors up to half a step remain."""
POINTS = 2048
ALIKE = 0.97
"""From this share of points within `REACH` of the surface after a turn it counts as the same."""
REACH = 0.05


def own_turns(surface: Float[Tensor, "n 3"]) -> Float[Tensor, "k 3 3"]:
    """Rotations of row vectors that leave a shape as it is, the identity first.

    Args:
        surface: points spread over it, in the object's frame (z up, its middle at the origin).
    """
    rows = torch.randperm(len(surface), generator=torch.Generator().manual_seed(0))[:POINTS]
    points = surface[rows].float()
    turns = [_turn(number) for number in range(STEPS)]
    # Of all points, so that it does not depend on how large the surface is.
    apart = [nearest_distances(points @ turn, surface.float()) for turn in turns[1:]]
    alike = [float((far < REACH).float().mean()) >= ALIKE for far in apart]
    return torch.stack([turns[0], *(t for t, same in zip(turns[1:], alike, strict=True) if same)])


def rotation_error(
    found: Float[Tensor, "3 3"], truth: Float[Tensor, "3 3"], turns: Float[Tensor, "k 3 3"]
) -> float:
    """Degrees to the nearest of the rotations that look like the true one."""
    return float(degrees_apart(found.expand_as(turns), turns @ truth).min())


def _turn(number: int) -> Float[Tensor, "3 3"]:
    angle = 2 * math.pi * number / STEPS
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
