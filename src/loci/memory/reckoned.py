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
from loci.memory.compressor import LatentEncoder, LatentEncoderConfig

POSE_FEATURES = 6
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


def relative_poses(
    poses: Float[Tensor, "b n 3"], origin: Float[Tensor, "b 3"]
) -> Float[Tensor, "b n 3"]:
    """Poses (heading, x, y) as seen from `origin`: x ahead of it, y to its left, in cells."""
    heading = poses[..., 0] - origin[:, None, 0]
    dx, dy = (poses[..., 1:] - origin[:, None, 1:]).unbind(-1)
    cos, sin = origin[:, None, 0].cos(), origin[:, None, 0].sin()
    ahead, left = dx * cos + dy * sin, -dx * sin + dy * cos
    return torch.stack([torch.atan2(heading.sin(), heading.cos()), ahead, left], dim=-1)


def mean_pose(
    poses: Float[Tensor, "b n 3"], weights: Float[Tensor, "n"] | None = None
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


def column_angles(columns: int, fov: float) -> Float[Tensor, "columns"]:
    """Viewing angle in radians of each column's centre, positive to the right; float64."""
    place = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 2 - 1
    return torch.atan(place * math.tan(math.radians(fov) / 2))


def reckoned_rotation(
    config: ReckonedConfig,
    relative: Float[Tensor, "b n 3"],
    times: Float[Tensor, "b n"],
    rows: int,
    columns: int,
    device: torch.device | None = None,
) -> Rotation:
    """Rotation of n frames of rows x columns tokens, frame-major: `[b, n * rows * columns, pairs]`.

    `relative` are poses relative to the current frame; `times` any position on the time axis.
    Angles are formed in float64 on the CPU (MPS has no float64) and go to `device` as float32.
    """
    batch, frames = relative.shape[:2]
    full = (batch, frames, rows, columns)
    heading, x, y = (part[:, :, None, None, None] for part in relative.double().cpu().unbind(-1))
    view = heading - column_angles(columns, config.fov)[:, None]
    place = torch.tensor(config.place, dtype=torch.float64)

    def axis(values: Tensor, pairs: int, base: float) -> Tensor:
        return values.double().cpu()[..., None] * axis_frequencies(pairs, base)

    parts = [
        axis(times, config.time, 100.0)[:, :, None, None],
        1.5 * axis(torch.arange(rows), config.rows, 30.0)[:, None],
        1.5 * axis(torch.arange(columns), config.columns, 30.0),
        view * torch.arange(1, config.heading + 1),
        x * place,
        y * place,
    ]
    angles = torch.cat([part.expand(*full, -1) for part in parts], dim=-1).flatten(1, 3)
    cos, sin = rotation(angles)
    return Rotation(cos.to(device), sin.to(device))


def memory_times(ages: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Time position of memories `ages` latents old: logarithmic, so it never runs out."""
    return -1 - torch.log2(1 + ages.clamp(min=0) / 8)


class PoseEmbedding(nn.Module):
    """Additive embedding of a frame's relative pose."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(EMBEDDING_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, relative: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n d"]:
        """On the device and in the type of the weights, wherever the poses are."""
        heading, place = relative[..., 0], relative[..., 1:]
        turns = heading[..., None] * torch.arange(1, 5, device=relative.device)
        waves = [f(place * w) for w in _EMBEDDED_WAVES for f in (torch.sin, torch.cos)]
        parts = [turns.cos(), turns.sin(), place.clamp(-6, 6) / 2, *waves]
        return self.net(torch.cat(parts, dim=-1).to(next(self.parameters())))


def pose_maps(poses: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 6 n"]:
    """Each frame's pose relative to the mean of its window, as input channels.

    Only differences enter, so a code does not depend on where in the world it was made.
    """
    heading, x, y = relative_poses(poses, mean_pose(poses)).unbind(-1)
    turns = torch.stack([heading.cos(), heading.sin(), (2 * heading).cos(), (2 * heading).sin()])
    return torch.cat([turns, torch.stack([x, y])]).transpose(0, 1)


class ReckonedEncoder(LatentEncoder):
    """The latent encoder with each frame's relative pose at its input, and codes of token width.

    `merge` compresses codes again with the same trunk behind an input projection of its own.
    """

    def __init__(self, config: LatentEncoderConfig, blind: bool = False) -> None:
        super().__init__(config)
        self.blind = blind
        width = config.hidden
        self.conv_in_codes = nn.Conv3d(config.out_channels + POSE_FEATURES, width, kernel_size=1)

    def _with_poses(self, x: Tensor, poses: Tensor) -> Tensor:
        maps = pose_maps(torch.zeros_like(poses) if self.blind else poses).to(x)[..., None, None]
        return torch.cat([x, maps.expand(-1, -1, -1, *x.shape[-2:])], dim=1)

    def encode(
        self, latents: Float[Tensor, "b c t h w"], poses: Float[Tensor, "b t 3"] | None = None
    ) -> Float[Tensor, "b d t4 h2 w2"]:
        """Latents and their reckoned poses to ceil(T / 4) codes."""
        if poses is None:
            raise ValueError("reckoned codes need the pose of every latent, got none")
        return self(self._with_poses(latents, poses))

    def merge(
        self, codes: Float[Tensor, "b d t h w"], poses: Float[Tensor, "b t 3"] | None = None
    ) -> Float[Tensor, "b d t4 h w"]:
        """Codes and their mean poses to ceil(T / 4) codes of the next level."""
        if poses is None:
            raise ValueError("reckoned codes need the pose of every code, got none")
        return self.compress(self.conv_in_codes(self._with_poses(codes, poses)))
