"""Poses (heading in radians, x and y in cells): dead reckoning, relative poses and means.

Environments give theirs in another order and other units (`loci.envs.base.MapPose`).

Memory tokens stand for several frames. Their pose has a fourth number, the spread of the headings
of these frames in radians.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.memory.hpmc import COMPRESSION
from loci.memory.schedule import Span


def relative_poses(
    poses: Float[Tensor, "b n p"], origin: Float[Tensor, "b 3"]
) -> Float[Tensor, "b n p"]:
    """Poses (heading, x, y, ...) relative to `origin`: x ahead of it, y to its left, in cells.

    Further components, such as the spread, stay as they are.
    """
    heading = poses[..., 0] - origin[:, None, 0]
    dx, dy = (poses[..., 1:3] - origin[:, None, 1:3]).unbind(-1)
    cos, sin = origin[:, None, 0].cos(), origin[:, None, 0].sin()
    forward, left = dx * cos + dy * sin, -dx * sin + dy * cos
    relative = torch.stack([torch.atan2(heading.sin(), heading.cos()), forward, left], dim=-1)
    return torch.cat([relative, poses[..., 3:]], dim=-1)


def mean_pose(
    poses: Float[Tensor, "b n p"], weights: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "b 3"]:
    """Circular mean of the headings, mean of the positions; weighted equally by default."""
    if weights is None:
        weights = torch.ones(poses.shape[1], dtype=poses.dtype, device=poses.device)
    w = (weights / weights.sum()).to(poses)[:, None]
    parts = torch.stack(
        [poses[..., 0].cos(), poses[..., 0].sin(), poses[..., 1], poses[..., 2]], dim=-1
    )
    cos, sin, x, y = (parts * w).sum(dim=1).unbind(-1)
    return torch.stack([torch.atan2(sin, cos), x, y], dim=-1)


def view_pose(poses: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 4"]:
    """Pose of a slot of frames: their mean, without spread, since its columns are a camera's."""
    mean = mean_pose(poses)
    return torch.cat([mean, torch.zeros_like(mean[:, :1])], dim=-1)


def panorama_pose(
    poses: Float[Tensor, "b n 4"], weights: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "b 4"]:
    """Pose of a merged span: the mean of its parts, and the arc that all their headings span."""
    mean = mean_pose(poses, weights)
    difference = poses[..., 0] - mean[:, None, 0]
    reach = torch.atan2(difference.sin(), difference.cos()).abs() + poses[..., 3] / 2
    spread = 2 * reach.amax(dim=1, keepdim=True)
    return torch.cat([mean, spread.clamp(max=2 * math.pi)], dim=-1)


def with_spread(poses: Float[Tensor, "b n p"]) -> Float[Tensor, "b n 4"]:
    """Poses with a spread appended where there is none: zero, as for single frames."""
    missing = 4 - poses.shape[-1]
    return torch.nn.functional.pad(poses, (0, missing))


NEAR = 0.6
"""Two views are of the same place if they were taken within this distance, in cells."""
ALONG = math.radians(20.0)
"""A view shows a direction if that is within this angle of the arc of its headings, in radians."""
POINTS = 7
"""Number of directions by which the arc of a panorama is tested."""


class ViewIndex:
    """Poses of spans, and which of them show views that no other span shows.

    Args:
        span_poses: the pose `[b, 4]` of each settled span.
        poses: the poses of the latents from `first` on, of which those of further slots are made.
        first: index of the first of these latents.
    """

    def __init__(
        self,
        span_poses: dict[Span, Float[Tensor, "b 4"]],
        poses: Float[Tensor, "b n 3"],
        first: int,
    ) -> None:
        self.span_poses, self.poses, self.first = dict(span_poses), poses, first

    def merge(self, parent: Span, parts: Sequence[Span]) -> None:
        """Add the pose of a span that was merged from `parts`."""
        lengths = torch.tensor([part.length for part in parts], dtype=torch.float64)
        stacked = torch.stack([self._pose(part) for part in parts], dim=1)
        self.span_poses[parent] = panorama_pose(stacked, lengths)

    def unique(self, spans: Sequence[Span]) -> Bool[np.ndarray, "n-3 4"]:
        """See `schedule.Views`. In a batch, a span is unique if it is so in any of the walks."""
        shown = self._shown(spans)
        unique = []
        for at in range(len(spans) - COMPRESSION + 1):
            outside = np.ones(len(spans), bool)
            outside[at : at + COMPRESSION] = False
            elsewhere = shown[:, at : at + COMPRESSION][..., outside].any(axis=-1).all(axis=-1)
            unique.append(~elsewhere.all(axis=0))
        return np.stack(unique) if unique else np.zeros((0, COMPRESSION), bool)

    def _shown(self, spans: Sequence[Span]) -> Bool[np.ndarray, "b n points n"]:
        """Whether another span of the same or a lower level shows a direction of a span."""
        poses = torch.stack([self._pose(span) for span in spans], dim=1).numpy()
        levels = np.array([span.level for span in spans])
        heading, place, spread = poses[..., 0], poses[..., 1:3], poses[..., 3]
        directions = heading[..., None] + spread[..., None] * np.linspace(-0.5, 0.5, POINTS)
        difference = directions[..., None] - heading[:, None, None, :]
        difference = np.abs((difference + np.pi) % (2 * np.pi) - np.pi)
        along = difference < ALONG + spread[:, None, None, :] / 2
        distance = np.linalg.norm(place[:, :, None] - place[:, None], axis=-1)
        close = (distance < NEAR) & (levels[None, :] <= levels[:, None])
        return along & close[:, :, None, :]

    def _pose(self, span: Span) -> Float[Tensor, "b 4"]:
        if span not in self.span_poses:
            within = self.poses[:, span.start - self.first : span.end - self.first]
            if span.level != 1 or within.shape[1] != span.length:
                raise ValueError(f"{span} is neither known nor a slot after latent {self.first}")
            if span.length < COMPRESSION:
                return view_pose(within)
            self.span_poses[span] = view_pose(within)
        return self.span_poses[span]


_STRAIGHT = 1.0
_DIAGONAL = math.sqrt(0.5)
# Move id -> (forward, left), view id -> turns to the left; ids as in `loci.actions`.
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
    """What an action does in one frame: `turn` in radians, `move` in cells.

    A cell is the model's unit of length. The defaults are those of the Doom rooms, where it is
    128 map units.
    """

    turn: float = math.radians(7.5)
    move: float = 12 / 128


def dead_reckon(
    start: Float[Tensor, "b 3"],
    move: Int[Tensor, "b n"],
    view: Int[Tensor, "b n"],
    scale: ActionScale,
) -> Float[Tensor, "b n 3"]:
    """Poses (heading, x, y) after each action, by dead reckoning; float64, on the CPU.

    An action first turns, then moves along the new heading, which is counter-clockwise in radians,
    wrapped to (-pi, pi]. Collisions are unknown, so poses drift after them.

    Args:
        start: pose before the first action.
        move, view: action ids, 0 to 9.
        scale: what an action does in one frame.
    """
    turns = torch.tensor(_TURN, dtype=torch.float64)[view.cpu()] * scale.turn
    steps = torch.tensor(_MOVE, dtype=torch.float64)[move.cpu()] * scale.move
    start = start.double().cpu()
    heading = start[:, :1] + turns.cumsum(dim=1)
    forward, left = steps.unbind(-1)
    cos, sin = heading.cos(), heading.sin()
    x = start[:, 1:2] + (forward * cos - left * sin).cumsum(dim=1)
    y = start[:, 2:3] + (forward * sin + left * cos).cumsum(dim=1)
    wrapped = torch.atan2(heading.sin(), heading.cos())
    return torch.stack([wrapped, x, y], dim=-1)
