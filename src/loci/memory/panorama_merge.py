"""Merges the memory tokens of four spans into one panorama, and encodes views with their poses.

Loci's extension of the published compressor (`hpmc.py`), whose convolution over time would average
frames of different headings.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.memory.hpmc import COMPRESSION, HPMCConfig, HPMCEncoder
from loci.memory.pose_rotary import (
    PoseEmbedding,
    PoseRotaryConfig,
    panorama_angles,
    pose_rotation,
)
from loci.memory.poses import mean_pose, panorama_pose, relative_poses
from loci.nn.attention import Attention
from loci.nn.embeddings import RotaryEmbedding
from loci.nn.norms import layer_norm

LAYERS = 2
SHARPNESS = 2.0
"""Falloff of a column's weight with the squared angular distance, in units of its own width."""
POSE_FEATURES = 6
"""Input channels that `pose_maps` adds to the latents."""


class PanoramaLayer(nn.Module):
    """One layer in which the tokens of a panorama attend to the tokens that are merged into it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(approximate="tanh"), nn.Linear(2 * dim, dim)
        )

    @property
    def output_layers(self) -> tuple[nn.Linear, nn.Linear]:
        """The last linear layers of attention and feed-forward."""
        return self.attn.o, cast(nn.Linear, self.ffn[-1])

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        views: Float[Tensor, "b m d"],
        x_rotation: RotaryEmbedding,
        views_rotation: RotaryEmbedding,
    ) -> Float[Tensor, "b n d"]:
        keys_values = self.attn.keys_values(views, views_rotation)
        x = x + self.attn.attend(self.attn.queries(layer_norm(x), x_rotation), keys_values)
        return x + self.ffn(layer_norm(x))


class PanoramaMerge(nn.Module):
    """Merges four views (or panoramas) `[b, d, 4, h, w]` into one panorama of the same size.

    The columns of the panorama divide the whole arc that the four cover. Each starts as a weighted
    mean of the columns that face its direction, row by row; then its tokens attend to all four,
    with the same rotary angles that the transformer uses. (A convolution over time would average
    frames of different headings and lose what a walker turns back to see.)
    """

    def __init__(self, dim: int, rotary: PoseRotaryConfig) -> None:
        super().__init__()
        if dim % (2 * rotary.pairs):
            raise ValueError(f"width {dim} is not divisible by the head size {2 * rotary.pairs}")
        self.rotary = rotary
        heads = dim // (2 * rotary.pairs)
        self.pose_embedding = PoseEmbedding(dim)
        self.layers = nn.ModuleList(PanoramaLayer(dim, heads) for _ in range(LAYERS))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Zero-initialise the layers' outputs, so that training starts from the weighted mean."""
        for layer in self.layers:
            for linear in cast(PanoramaLayer, layer).output_layers:
                linear.weight.zero_()
                linear.bias.zero_()

    def forward(
        self, tokens: Float[Tensor, "b d 4 h w"], poses: Float[Tensor, "b 4 4"]
    ) -> Float[Tensor, "b d 1 h w"]:
        """Raises ValueError unless there are exactly four sets of tokens with poses and spreads."""
        batch, _, count, height, width = tokens.shape
        if count != COMPRESSION or poses.shape != (batch, COMPRESSION, 4):
            raise ValueError(
                f"a merge takes {COMPRESSION} sets of tokens and their poses "
                f"[{batch}, {COMPRESSION}, 4], got {count} and {list(poses.shape)}"
            )
        merged = panorama_pose(poses)[:, None]
        parts = relative_poses(poses, merged[:, 0, :3])
        merged = torch.cat([torch.zeros_like(merged[..., :3]), merged[..., 3:]], dim=-1)
        if self.rotary.time_only:
            merged, parts = torch.zeros_like(merged), torch.zeros_like(parts)
        grid = height, width, tokens.device
        merged_rotation = self._rotation(merged, [0.0], *grid)
        parts_rotation = self._rotation(parts, [-4.0, -3.0, -2.0, -1.0], *grid)
        weights = self._column_weights(merged, parts, width).to(tokens)
        x = torch.einsum("bckv,bdkhv->bhcd", weights, tokens).flatten(1, 2)
        views = tokens.flatten(3).permute(0, 2, 3, 1)
        views = layer_norm(views + self.pose_embedding(parts)[:, :, None]).flatten(1, 2)
        for layer in self.layers:
            x = layer(x, views, merged_rotation, parts_rotation)
        return x.transpose(1, 2).unflatten(2, (1, height, width))

    def _column_weights(
        self, merged: Float[Tensor, "b 1 4"], parts: Float[Tensor, "b 4 4"], width: int
    ) -> Float[Tensor, "b w 4 w"]:
        """Weights of the parts' columns in each column of the panorama, where they sum to 1."""
        fov = self.rotary.fov
        target = merged[..., :1] - panorama_angles(merged[..., 3], width, fov)
        source = parts[..., :1] - panorama_angles(parts[..., 3], width, fov)
        difference = target[:, 0, :, None, None] - source[:, None]
        difference = torch.atan2(difference.sin(), difference.cos())
        arcs = (parts[..., 3] + math.radians(fov)).clamp(max=2 * math.pi)
        logits = -SHARPNESS * (difference / (arcs / width)[:, None, :, None]).square()
        return logits.flatten(2).softmax(dim=-1).view_as(difference)

    def _rotation(self, poses: Tensor, times: list[float], height: int, width: int, device):
        batched = torch.tensor(times, dtype=torch.float64).expand(poses.shape[0], -1)
        return pose_rotation(self.rotary, poses, batched, height, width, device)


def pose_maps(poses: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 6 n"]:
    """Each frame's pose relative to the mean of its window, as input channels.

    Being relative, they do not depend on where in the world the window was seen.
    """
    heading, x, y = relative_poses(poses, mean_pose(poses)).unbind(-1)
    turns = torch.stack([heading.cos(), heading.sin(), (2 * heading).cos(), (2 * heading).sin()])
    return torch.cat([turns, torch.stack([x, y])]).transpose(0, 1)


class PoseConditionedEncoder(HPMCEncoder):
    """The encoder of `doom`: an `HPMCEncoder` that is also told where each latent was seen.

    Relative poses are additional input channels, and `merge` is a `PanoramaMerge` in place of a
    second pass. Its outputs have the width of the transformer's tokens.
    """

    def __init__(self, config: HPMCConfig, rotary: PoseRotaryConfig) -> None:
        super().__init__(config)
        self.time_only = rotary.time_only
        self.panorama = PanoramaMerge(config.out_channels, rotary)

    def encode(
        self, latents: Float[Tensor, "b c t h w"], poses: Float[Tensor, "b t 3"] | None = None
    ) -> Float[Tensor, "b d t4 h2 w2"]:
        """T latents and their dead-reckoned poses to memory tokens of length ceil(T / 4)."""
        if poses is None:
            raise ValueError("this encoder needs the pose of every latent, got none")
        maps = pose_maps(torch.zeros_like(poses) if self.time_only else poses).to(latents)
        maps = maps[..., None, None].expand(-1, -1, -1, *latents.shape[-2:])
        return self(torch.cat([latents, maps], dim=1))

    def merge(
        self, tokens: Float[Tensor, "b d 4 h w"], poses: Float[Tensor, "b 4 4"] | None = None
    ) -> Float[Tensor, "b d 1 h w"]:
        """Memory tokens of four spans, and their poses with spread, to those of one span."""
        if poses is None:
            raise ValueError("this encoder needs the pose of every span, got none")
        return self.panorama(tokens, poses)
