"""Poses by dead reckoning: heading in radians, x and y in cells, and what they average to.

A code stands for many frames. Its pose has a fourth number, the spread of the headings it was
made from, so that it can be addressed as the panorama it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.memory.hpmc import RATE
from loci.memory.schedule import Span


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


NEAR = 0.6
"""Two views are of the same place if it is no further than this, in cells ..."""
ALONG = math.radians(20.0)
"""... and of the same direction if it is no further than this from the arc that was seen."""
POINTS = 7
"""Directions by which the arc of a panorama is tested."""


class SeenViews:
    """Poses of spans: those that are known, and slots from the latents that come after them.

    Args:
        known: `[b, 4]` by span.
        poses: of the latents from `first` on, where spans of level one begin that are not known.
    """

    def __init__(
        self, known: dict[Span, Float[Tensor, "b 4"]], poses: Float[Tensor, "b n 3"], first: int
    ) -> None:
        self.known, self.poses, self.first = dict(known), poses, first

    def merge(self, parent: Span, parts: Sequence[Span]) -> None:
        lengths = torch.tensor([part.length for part in parts], dtype=torch.float64)
        stacked = torch.stack([self._pose(part) for part in parts], dim=1)
        self.known[parent] = panorama_pose(stacked, lengths)

    def unique(self, spans: Sequence[Span]) -> Bool[np.ndarray, "n-3 4"]:
        """See `hierarchy.Views`. In a batch of walks, what is unique in one of them is unique."""
        shown = self._shown(spans)
        rows = []
        for at in range(len(spans) - RATE + 1):
            outside = np.ones(len(spans), bool)
            outside[at : at + RATE] = False
            elsewhere = shown[:, at : at + RATE][..., outside].any(axis=-1).all(axis=-1)
            rows.append(~elsewhere.all(axis=0))
        return np.stack(rows) if rows else np.zeros((0, RATE), bool)

    def _shown(self, spans: Sequence[Span]) -> Bool[np.ndarray, "b n points n"]:
        """Whether a direction of a span's arc is in the arc of another one that is as fine."""
        poses = torch.stack([self._pose(span) for span in spans], dim=1).numpy()
        levels = np.array([span.level for span in spans])
        heading, place, spread = poses[..., 0], poses[..., 1:3], poses[..., 3]
        directions = heading[..., None] + spread[..., None] * np.linspace(-0.5, 0.5, POINTS)
        away = directions[..., None] - heading[:, None, None, :]
        away = np.abs((away + np.pi) % (2 * np.pi) - np.pi)
        along = away < ALONG + spread[:, None, None, :] / 2
        apart = np.linalg.norm(place[:, :, None] - place[:, None], axis=-1)
        close = (apart < NEAR) & (levels[None, :] <= levels[:, None])
        return along & close[:, :, None, :]

    def _pose(self, span: Span) -> Float[Tensor, "b 4"]:
        if span not in self.known:
            within = self.poses[:, span.start - self.first : span.end - self.first]
            if span.level != 1 or within.shape[1] != span.length:
                raise ValueError(f"{span} is neither known nor a slot after latent {self.first}")
            if span.length < RATE:
                return view_pose(within)
            self.known[span] = view_pose(within)
        return self.known[span]


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
class ActionScale:
    """What one action does: `turn` in radians and `move` in cells, per frame.

    A cell is the world's own unit of length (128 map units in the Doom rooms).
    """

    turn: float = math.radians(7.5)
    move: float = 12 / 128


def dead_reckon(
    start: Float[Tensor, "b 3"],
    move: Int[Tensor, "b n"],
    view: Int[Tensor, "b n"],
    stride: ActionScale,
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
