"""Reckoned addressing: a memory is found by where it looks, not by when it was made.

A token stands for a direction seen from a place, as in a panorama. Its rotary angles are made
from the heading reckoned from the walker's own actions minus the viewing angle of the token's
column, and from the reckoned displacement; the same goes in as an additive embedding. No pose is
ever measured. This is an option of ours beside the published addressing by time.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.memory.hpmc import RATE, HPMCConfig, HPMCEncoder
from loci.memory.poses import mean_pose, panorama_pose, relative_poses, with_spread
from loci.nn.attention import Attention
from loci.nn.norms import layer_norm
from loci.nn.rotary import Rotation, axis_frequencies, rotation

_EMBEDDED_WAVES = (0.7, 1.4, 2.8)
EMBEDDING_FEATURES = 8 + 2 + 4 * len(_EMBEDDED_WAVES)


@dataclass(frozen=True)
class PoseRotaryConfig:
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


def pose_rotation(
    config: PoseRotaryConfig,
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


LAYERS = 2
SHARPNESS = 2.0
"""How fast a token's part in a column falls with the angle between them, in its own widths."""


class PanoramaLayer(nn.Module):
    """The panorama's tokens look at the codes it is made of, each where it faces."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(approximate="tanh"), nn.Linear(2 * dim, dim)
        )

    @property
    def last(self) -> tuple[nn.Linear, nn.Linear]:
        """Where attention and feed-forward end."""
        return self.attn.o, cast(nn.Linear, self.ffn[-1])

    def forward(
        self, x: Float[Tensor, "b n d"], views: Float[Tensor, "b m d"], at, views_at
    ) -> Float[Tensor, "b n d"]:
        context = self.attn.keys_values(views, views_at)
        x = x + self.attn.attend(self.attn.queries(layer_norm(x), at), context)
        return x + self.ffn(layer_norm(x))


class PanoramaMerge(nn.Module):
    """Four codes `[b, d, 4, h, w]` to one of the same size.

    The new code's columns divide the whole arc that the four saw. Each begins as what the four hold
    of its direction, row by row, so that a merged code is read as its parts are; then its tokens
    look at all parts, by the same rotary angles with which the transformer will find them.
    Averaging frames of different headings in place, as a convolution over time does, loses exactly
    what a walker turns back for.
    """

    def __init__(self, dim: int, reckoned: PoseRotaryConfig) -> None:
        super().__init__()
        if dim % (2 * reckoned.pairs):
            raise ValueError(f"code width {dim} does not split into heads of {2 * reckoned.pairs}")
        self.reckoned = reckoned
        heads = dim // (2 * reckoned.pairs)
        self.pose_embedding = PoseEmbedding(dim)
        self.layers = nn.ModuleList(PanoramaLayer(dim, heads) for _ in range(LAYERS))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Layers begin without effect: what is gathered by direction alone can be read already."""
        for layer in self.layers:
            for last in cast(PanoramaLayer, layer).last:
                last.weight.zero_()
                last.bias.zero_()

    def forward(
        self, codes: Float[Tensor, "b d 4 h w"], poses: Float[Tensor, "b 4 4"]
    ) -> Float[Tensor, "b d 1 h w"]:
        """Raises ValueError unless there are exactly four codes with poses and spreads."""
        batch, _, count, rows, columns = codes.shape
        if count != RATE or poses.shape != (batch, RATE, 4):
            raise ValueError(
                f"a merge takes {RATE} codes and their poses [{batch}, {RATE}, 4], "
                f"got {count} and {list(poses.shape)}"
            )
        own = panorama_pose(poses)[:, None]
        parts = relative_poses(poses, own[:, 0, :3])
        own = torch.cat([torch.zeros_like(own[..., :3]), own[..., 3:]], dim=-1)
        if self.reckoned.blind:
            own, parts = torch.zeros_like(own), torch.zeros_like(parts)
        at = self._rotation(own, [0.0], rows, columns, codes.device)
        parts_at = self._rotation(parts, [-4.0, -3.0, -2.0, -1.0], rows, columns, codes.device)
        share = self._shares(own, parts, columns).to(codes)
        x = torch.einsum("bckv,bdkhv->bhcd", share, codes).flatten(1, 2)
        views = codes.flatten(3).permute(0, 2, 3, 1)
        views = layer_norm(views + self.pose_embedding(parts)[:, :, None]).flatten(1, 2)
        for layer in self.layers:
            x = layer(x, views, at, parts_at)
        return x.transpose(1, 2).unflatten(2, (1, rows, columns))

    def _shares(
        self, own: Float[Tensor, "b 1 4"], parts: Float[Tensor, "b 4 4"], columns: int
    ) -> Float[Tensor, "b w 4 w"]:
        """How much of every part's columns is in each new column, by the angles between them."""
        to = own[..., :1] - panorama_angles(own[..., 3], columns, self.reckoned.fov)
        seen = parts[..., :1] - panorama_angles(parts[..., 3], columns, self.reckoned.fov)
        away = to[:, 0, :, None, None] - seen[:, None]
        away = torch.atan2(away.sin(), away.cos())
        arcs = (parts[..., 3] + math.radians(self.reckoned.fov)).clamp(max=2 * math.pi)
        nearness = -SHARPNESS * (away / (arcs / columns)[:, None, :, None]).square()
        return nearness.flatten(2).softmax(dim=-1).view_as(away)

    def _rotation(self, poses: Tensor, times: list[float], rows: int, columns: int, device):
        moments = torch.tensor(times, dtype=torch.float64).expand(poses.shape[0], -1)
        return pose_rotation(self.reckoned, poses, moments, rows, columns, device)


POSE_FEATURES = 6


def pose_maps(poses: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 6 n"]:
    """Each frame's pose relative to the mean of its window, as input channels.

    Only differences enter, so a code does not depend on where in the world it was made.
    """
    heading, x, y = relative_poses(poses, mean_pose(poses)).unbind(-1)
    turns = torch.stack([heading.cos(), heading.sin(), (2 * heading).cos(), (2 * heading).sin()])
    return torch.cat([turns, torch.stack([x, y])]).transpose(0, 1)


class PosedHPMCEncoder(HPMCEncoder):
    """The latent encoder with each frame's relative pose at its input, and codes of token width.

    `merge` makes one panorama of four codes: see `memory.panorama`.
    """

    def __init__(self, config: HPMCConfig, reckoned: PoseRotaryConfig) -> None:
        super().__init__(config)
        self.blind = reckoned.blind
        self.panorama = PanoramaMerge(config.out_channels, reckoned)

    def encode(
        self, latents: Float[Tensor, "b c t h w"], poses: Float[Tensor, "b t 3"] | None = None
    ) -> Float[Tensor, "b d t4 h2 w2"]:
        """Latents and their reckoned poses to ceil(T / 4) codes."""
        if poses is None:
            raise ValueError("reckoned codes need the pose of every latent, got none")
        maps = pose_maps(torch.zeros_like(poses) if self.blind else poses).to(latents)
        maps = maps[..., None, None].expand(-1, -1, -1, *latents.shape[-2:])
        return self(torch.cat([latents, maps], dim=1))

    def merge(
        self, codes: Float[Tensor, "b d 4 h w"], poses: Float[Tensor, "b 4 4"] | None = None
    ) -> Float[Tensor, "b d 1 h w"]:
        """Four codes and their poses, with spread, to one code of the next level."""
        if poses is None:
            raise ValueError("reckoned codes need the pose of every code, got none")
        return self.panorama(codes, poses)
