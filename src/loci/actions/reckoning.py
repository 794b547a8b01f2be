"""Dead reckoning: where the walker ought to be, from nothing but the keys that were pressed."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_STRAIGHT = 1.0
_DIAGONAL = math.sqrt(0.5)
# id -> (forward, left) for moves, id -> left turns for views; see actions.vocabulary.
_MOVE = (
    (0.0, 0.0),
    (_STRAIGHT, 0.0),
    (-_STRAIGHT, 0.0),
    (0.0, _STRAIGHT),
    (0.0, -_STRAIGHT),
    (_DIAGONAL, _DIAGONAL),
    (_DIAGONAL, -_DIAGONAL),
    (-_DIAGONAL, _DIAGONAL),
    (-_DIAGONAL, -_DIAGONAL),
    (0.0, 0.0),
)
_TURN = (0.0, 0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0)


@dataclass(frozen=True)
class Stride:
    """What one action does: `turn` in radians and `move` in cells, per frame.

    A cell is the world's own unit of length (128 map units in the Doom rooms).
    """

    turn: float = math.radians(7.5)
    move: float = 12 / 128


def reckon(
    start: Float[Tensor, "b 3"],
    move: Int[Tensor, "b n"],
    view: Int[Tensor, "b n"],
    stride: Stride,
) -> Float[Tensor, "b n 3"]:
    """Poses (heading, x, y) after each action, in float64.

    Heading is counter-clockwise in radians, wrapped to (-pi, pi], so it never runs out. An
    action first turns, then moves along the new heading. Bumping into a wall is not known here:
    what uses these poses must tolerate drift.
    """
    turns = torch.tensor(_TURN, dtype=torch.float64)[view.cpu()] * stride.turn
    steps = torch.tensor(_MOVE, dtype=torch.float64)[move.cpu()] * stride.move
    start = start.double().cpu()
    heading = start[:, :1] + turns.cumsum(dim=1)
    forward, left = steps.unbind(-1)
    cos, sin = heading.cos(), heading.sin()
    x = start[:, 1:2] + (forward * cos - left * sin).cumsum(dim=1)
    y = start[:, 2:3] + (forward * sin + left * cos).cumsum(dim=1)
    wrapped = torch.atan2(heading.sin(), heading.cos())
    return torch.stack([wrapped, x, y], dim=-1)
