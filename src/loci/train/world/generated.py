"""Latents that a world model generates, beside the frames they stand for: what a decoder meets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from loci.data.latents import LatentWalks
from loci.io.files import replacing
from loci.io.weights import read_tensors
from loci.train.world.self_forcing import self_forcing_rollout
from loci.world.config import WorldConfig
from loci.world.transformer import WorldTransformer

WALKS, CHUNKS = 12, 8
"""Walks in a rollout, and chunks of each: near enough to the truth to be compared with it."""


@dataclass(frozen=True)
class GeneratedLatents:
    """Rollouts from true histories, with true actions.

    Attributes:
        latents: in half precision, normalised.
        walk: the recorded walk of each rollout.
        frame: the recorded frame that each latent stands for.
    """

    latents: Float[Tensor, "r n c h w"]
    walk: Int[Tensor, "r"]
    frame: Int[Tensor, "r n"]

    def save(self, path: Path) -> None:
        tensors = {"latents": self.latents, "walk": self.walk, "frame": self.frame}
        with replacing(path) as draft:
            save_file(tensors, draft)

    @classmethod
    def load(cls, path: Path) -> GeneratedLatents:
        return cls(**read_tensors(path))


def generate_latents(
    model: WorldTransformer, walks: LatentWalks, world: WorldConfig, rollouts: int, seed: int
) -> GeneratedLatents:
    """Let a model continue walks as it does in use, with all its sampling steps.

    Args:
        model: runs on its device; the result is on the CPU.
        walks: to continue, at least `CHUNKS + 2` chunks long.
        world: how the model is walked.
        rollouts: of `WALKS` walks each, or of as many as there are.
        seed: seed of walks, starts and noise.
    """
    rng = np.random.default_rng(seed)
    count, chunk_frames = min(WALKS, walks.count), world.chunk
    latents, walk, frame = [], [], []
    for number in range(rollouts):
        rows = torch.from_numpy(rng.choice(walks.count, size=count, replace=False))
        start = chunk_frames * int(rng.integers(1, walks.length // chunk_frames - CHUNKS))
        new = self_forcing_rollout(
            model, walks, world, rows, start, CHUNKS, seed + number, world.sampling
        )
        latents.append(new.half())
        walk.append(rows)
        frame.append((start + 1 + torch.arange(new.shape[1])).expand(count, -1))
    return GeneratedLatents(torch.cat(latents), torch.cat(walk), torch.cat(frame).contiguous())
