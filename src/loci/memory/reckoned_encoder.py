"""The memory compressor of reckoned addressing: codes of token width that know their poses."""

import torch
from jaxtyping import Float
from torch import Tensor

from loci.memory.compressor import LatentEncoder, LatentEncoderConfig
from loci.memory.panorama import PanoramaMerge
from loci.memory.poses import mean_pose, relative_poses
from loci.memory.reckoned import ReckonedConfig

POSE_FEATURES = 6


def pose_maps(poses: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 6 n"]:
    """Each frame's pose relative to the mean of its window, as input channels.

    Only differences enter, so a code does not depend on where in the world it was made.
    """
    heading, x, y = relative_poses(poses, mean_pose(poses)).unbind(-1)
    turns = torch.stack([heading.cos(), heading.sin(), (2 * heading).cos(), (2 * heading).sin()])
    return torch.cat([turns, torch.stack([x, y])]).transpose(0, 1)


class ReckonedEncoder(LatentEncoder):
    """The latent encoder with each frame's relative pose at its input, and codes of token width.

    `merge` makes one panorama of four codes: see `memory.panorama`.
    """

    def __init__(self, config: LatentEncoderConfig, reckoned: ReckonedConfig) -> None:
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
