"""Reckoned addressing: a memory is found by where it looks, not by when it was made.

A token stands for a direction seen from a place, as in a panorama. Its rotary angles are made
from the heading reckoned from the walker's own actions minus the viewing angle of the token's
column, and from the reckoned displacement; the same goes in as an additive embedding. No pose is
ever measured. This is an option of ours beside the published addressing by time.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.rotary import Rotation, axis_frequencies, rotation
from loci.memory.poses import with_spread

_EMBEDDED_WAVES = (0.7, 1.4, 2.8)
EMBEDDING_FEATURES = 8 + 2 + 4 * len(_EMBEDDED_WAVES)


@dataclass(frozen=True)
class ReckonedConfig:
    """How channel pairs of a head are shared out, and the camera they assume.

    `heading` pairs turn with 1, 2, .. times the angle, so that a full circle wraps. `place` lists
    the angular frequencies, in radians per cell, of the x and of the y displacement. `fov` is the
    horizontal field of view in degrees. `blind` zeroes every pose, which leaves addressing by time
    alone, as in the published model: the comparison that shows what reckoning is worth.
    """

    time: int = 4
    rows: int = 6
    columns: int = 6
    heading: int = 8
    place: tuple[float, ...] = (0.4, 0.8, 1.6, 3.2)
    fov: float = 88.7
    blind: bool = False

    @property
    def pairs(self) -> int:
        return self.time + self.rows + self.columns + self.heading + 2 * len(self.place)


def column_angles(columns: int, fov: float) -> Float[Tensor, "columns"]:
    """Viewing angle in radians of each column's centre, positive to the right; float64."""
    return torch.atan(_across(columns) * math.tan(math.radians(fov) / 2))


def panorama_angles(
    spread: Float[Tensor, "b n"], columns: int, fov: float
) -> Float[Tensor, "b n columns"]:
    """Viewing angles of codes made from headings of some spread, in radians; float64.

    A code without spread has the camera's columns. One with spread is a panorama: its columns
    divide all that its frames saw evenly, up to the full circle.
    """
    arc = (spread.double()[..., None] + math.radians(fov)).clamp(max=2 * math.pi)
    even = _across(columns) * arc / 2
    return torch.where(spread[..., None] > 0, even, column_angles(columns, fov))


def _across(columns: int) -> Float[Tensor, "columns"]:
    """Centres of equal parts of -1 to 1."""
    return (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 2 - 1


def reckoned_rotation(
    config: ReckonedConfig,
    relative: Float[Tensor, "b n p"],
    times: Float[Tensor, "b n"],
    rows: int,
    columns: int,
    device: torch.device | None = None,
) -> Rotation:
    """Rotation of n frames of rows x columns tokens, frame-major: `[b, n * rows * columns, pairs]`.

    `relative` are poses relative to the current frame, with or without spread; `times` any
    position on the time axis. Angles are formed in float64 on the CPU (MPS has no float64) and go
    to `device` as float32.
    """
    batch, frames = relative.shape[:2]
    full = (batch, frames, rows, columns)
    poses = with_spread(relative.cpu().double())
    heading, x, y = (part[:, :, None, None, None] for part in poses[..., :3].unbind(-1))
    angles = panorama_angles(poses[..., 3], columns, config.fov)
    view = heading - angles[:, :, None, :, None]
    place = torch.tensor(config.place, dtype=torch.float64)

    def axis(values: Tensor, pairs: int, base: float) -> Tensor:
        return values.cpu().double()[..., None] * axis_frequencies(pairs, base)

    parts = [
        axis(times, config.time, 100.0)[:, :, None, None],
        1.5 * axis(torch.arange(rows), config.rows, 30.0)[:, None],
        1.5 * axis(torch.arange(columns), config.columns, 30.0),
        view * torch.arange(1, config.heading + 1),
        x * place,
        y * place,
    ]
    turned = torch.cat([part.expand(*full, -1) for part in parts], dim=-1).flatten(1, 3)
    cos, sin = rotation(turned)
    return Rotation(cos.to(device), sin.to(device))


def memory_times(ages: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Time position of memories `ages` latents old: logarithmic, so it never runs out."""
    return -1 - torch.log2(1 + ages.clamp(min=0) / 8)


class PoseEmbedding(nn.Module):
    """Additive embedding of a frame's relative pose."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(EMBEDDING_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, relative: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        """On the device and in the type of the weights, wherever the poses are."""
        heading, place = relative[..., 0], relative[..., 1:3]
        turns = heading[..., None] * torch.arange(1, 5, device=relative.device)
        waves = [f(place * w) for w in _EMBEDDED_WAVES for f in (torch.sin, torch.cos)]
        parts = [turns.cos(), turns.sin(), place.clamp(-6, 6) / 2, *waves]
        return self.net(torch.cat(parts, dim=-1).to(next(self.parameters())))
