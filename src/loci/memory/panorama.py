"""Merging codes by where they look: four views become one panorama."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.attention import Attention
from loci.layers.norms import layer_norm
from loci.memory.compressor import RATE
from loci.memory.poses import panorama_pose, relative_poses
from loci.memory.reckoned import (
    PoseEmbedding,
    ReckonedConfig,
    panorama_angles,
    reckoned_rotation,
)

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

    def __init__(self, dim: int, reckoned: ReckonedConfig) -> None:
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
        return reckoned_rotation(self.reckoned, poses, moments, rows, columns, device)
