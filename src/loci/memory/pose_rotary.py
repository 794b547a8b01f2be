"""Pose-conditioned rotary embedding: attention finds memory tokens by where they look.

Every token stands for a viewing direction from a position, as in a panorama. Its rotary angles
come from the dead-reckoned heading minus the viewing angle of the token's column, and from the
dead-reckoned displacement; the same pose is also added as an embedding. Poses are computed from
the actions alone. The published Infinite-World model (arXiv 2602.02393) has rotary positions in
time only; this is an extension.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.memory.poses import with_spread
from loci.nn.embeddings import RotaryEmbedding, rotary_embedding, rotary_frequencies

_EMBEDDED_WAVES = (0.7, 1.4, 2.8)
EMBEDDING_FEATURES = 8 + 2 + 4 * len(_EMBEDDED_WAVES)


@dataclass(frozen=True)
class PoseRotaryConfig:
    """How the channel pairs of an attention head are divided, and the camera they assume.

    Args:
        time, rows, columns: channel pairs for the time, row and column of a token.
        heading: channel pairs for the heading; pair k turns by k times the angle, so that a full
            circle wraps around.
        place: angular frequencies in radians per cell, one pair each for the x and for the y
            displacement.
        fov: horizontal field of view in degrees.
        time_only: sets every pose to zero, which leaves rotary positions in time, as in the
            published model. For ablations.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"blind": "time_only"}

    time: int = 4
    rows: int = 6
    columns: int = 6
    heading: int = 8
    place: tuple[float, ...] = (0.4, 0.8, 1.6, 3.2)
    fov: float = 88.7
    time_only: bool = False

    @property
    def pairs(self) -> int:
        return self.time + self.rows + self.columns + self.heading + 2 * len(self.place)


def column_angles(columns: int, fov: float) -> Float[Tensor, "columns"]:
    """Viewing angle in radians of each column's centre, positive to the right; float64."""
    return torch.atan(_across(columns) * math.tan(math.radians(fov) / 2))


def panorama_angles(
    spread: Float[Tensor, "b n"], columns: int, fov: float
) -> Float[Tensor, "b n columns"]:
    """Viewing angle in radians of each column of memory tokens; float64.

    Args:
        spread: the arc in radians that the headings of the merged frames span. Zero means a single
            view, whose columns are the camera's. Otherwise it is a panorama, whose columns divide
            the arc plus the field of view evenly, up to the full circle.
    """
    arc = (spread.double()[..., None] + math.radians(fov)).clamp(max=2 * math.pi)
    even = _across(columns) * arc / 2
    return torch.where(spread[..., None] > 0, even, column_angles(columns, fov))


def _across(columns: int) -> Float[Tensor, "columns"]:
    """Centres of equal parts of -1 to 1."""
    return (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 2 - 1


def pose_rotation(
    config: PoseRotaryConfig,
    relative: Float[Tensor, "b n p"],
    times: Float[Tensor, "b n"],
    height: int,
    width: int,
    device: torch.device | None = None,
) -> RotaryEmbedding:
    """Rotation of n frames of height x width tokens, frame-major: `[b, n height width, pairs]`.

    Args:
        relative: poses (heading, x, y and optionally spread) relative to the current frame.
        times: positions on the time axis.

    Angles are computed in float64 on the CPU (MPS has no float64) and moved to `device` as float32.
    """
    batch, frames = relative.shape[:2]
    shape = (batch, frames, height, width)
    poses = with_spread(relative.cpu().double())
    heading, x, y = (part[:, :, None, None, None] for part in poses[..., :3].unbind(-1))
    column_angles = panorama_angles(poses[..., 3], width, config.fov)
    view = heading - column_angles[:, :, None, :, None]
    place = torch.tensor(config.place, dtype=torch.float64)

    def axis(values: Tensor, pairs: int, base: float) -> Tensor:
        return values.cpu().double()[..., None] * rotary_frequencies(pairs, base)

    parts = [
        axis(times, config.time, 100.0)[:, :, None, None],
        1.5 * axis(torch.arange(height), config.rows, 30.0)[:, None],
        1.5 * axis(torch.arange(width), config.columns, 30.0),
        view * torch.arange(1, config.heading + 1),
        x * place,
        y * place,
    ]
    angles = torch.cat([part.expand(*shape, -1) for part in parts], dim=-1).flatten(1, 3)
    cos, sin = rotary_embedding(angles)
    return RotaryEmbedding(cos.to(device), sin.to(device))


def memory_times(ages: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Time position of memory tokens that are `ages` latents old: logarithmic, so that it stays
    within the trained range however long the history is."""
    return -1 - torch.log2(1 + ages.clamp(min=0) / 8)


class PoseEmbedding(nn.Module):
    """Additive embedding of a frame's relative pose."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(EMBEDDING_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, relative: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        """The embedding, on the device and in the dtype of the weights."""
        heading, place = relative[..., 0], relative[..., 1:3]
        turns = heading[..., None] * torch.arange(1, 5, device=relative.device)
        waves = [f(place * w) for w in _EMBEDDED_WAVES for f in (torch.sin, torch.cos)]
        parts = [turns.cos(), turns.sin(), place.clamp(-6, 6) / 2, *waves]
        return self.net(torch.cat(parts, dim=-1).to(next(self.parameters())))
