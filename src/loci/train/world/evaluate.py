"""The exam: views seen before and out of sight, with true, wrong and empty memory.

Judged by sampled frames against the engine's true ones. A gap in the loss is no evidence: models
that cannot recall show a large one at low noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from loci.codecs.base import Codec
from loci.data.recordings import LatentWalks
from loci.flow import euler_timesteps, sample
from loci.train.trainer import RunDirectory
from loci.train.world.batches import Batch, Recipe, draw
from loci.train.world.memory_tokens import chunk_poses, compress_history
from loci.world.conditioning import Actions
from loci.world.transformer import WorldTransformer

Memory = Literal["true", "wrong", "none"]
SIZE = 24
RECIPES = {
    "near": Recipe((6, 0, 0), 3),
    "far": Recipe((2, 4, 0), 3),
    # By themselves: beside unmerged codes, merged ones can be empty and nobody notices.
    "merged": Recipe((0, 8, 0), 3),
    "twice_merged": Recipe((0, 0, 2), 3),
    "whole": Recipe(stride=3, whole=20, lengths=range(512, 513)),
}


@dataclass(frozen=True)
class RecallEvaluation:
    """Held-out batches by recipe, with the true frames of their targets in [-1, 1]."""

    batches: dict[str, Batch]
    frames: dict[str, Float[Tensor, "b k 3 h w"]]
    codec: Codec

    @classmethod
    def prepare(
        cls,
        walks: LatentWalks,
        frames: np.ndarray,
        codec: Codec,
        recipes: Mapping[str, Recipe] = RECIPES,
    ) -> "RecallEvaluation":
        """Fixed batches: the same questions at every examination, whatever else is asked."""
        batches = {
            name: draw(walks, recipe, SIZE, np.random.default_rng(7), revisits=1.0)
            for name, recipe in recipes.items()
        }
        true = {}
        for name, batch in batches.items():
            rows = batch.walks[:, None].numpy(), batch.target_frames.numpy()
            pixels = torch.from_numpy(frames[rows]).permute(0, 1, 4, 2, 3)
            true[name] = pixels.float() / 127.5 - 1
        return cls(batches, true, codec)


def evaluate(
    model: WorldTransformer, exam: RecallEvaluation, run: RunDirectory | None = None
) -> dict[str, float]:
    """PSNR in dB over hidden targets, by recipe and memory; writes a sheet of the first rows."""
    results: dict[str, float] = {}
    for name, batch in exam.batches.items():
        answers = {kind: answer(model, batch, kind, exam.codec) for kind in get_args(Memory)}
        ceiling = exam.codec.decode(batch.target.transpose(1, 2)).transpose(1, 2)
        for kind, frames in {**answers, "ceiling": ceiling}.items():
            results[f"{name}_{kind}"] = _psnr(frames, exam.frames[name])[batch.hidden].mean().item()
        if run is not None:
            rows = [
                torch.cat([exam.frames[name][i], answers["true"][i], answers["none"][i]])
                for i in range(12)
            ]
            run.sheet(f"exam_{name}", rows)
    return results


@torch.no_grad()
def answer(
    model: WorldTransformer, batch: Batch, memory: Memory, codec: Codec, steps: int = 8
) -> Float[Tensor, "b k 3 h w"]:
    """Sampled target frames. `wrong` gives every example its neighbour's memory."""
    remembered = compress_history(model.latent_encoder, batch)
    if memory == "wrong":
        remembered = remembered._replace(codes=remembered.codes.roll(1, 0))
    elif memory == "none":
        empty = replace(batch, spans=tuple(s[:, :0] for s in batch.spans))
        remembered = compress_history(model.latent_encoder, empty)
    context = model.context(
        remembered.codes,
        batch.local[:, :, None],
        Actions(*batch.actions.unbind(-1)),
        address=chunk_poses(batch, remembered),
    )
    shape = batch.target.transpose(1, 2).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    latents = sample(
        lambda state, t: {"video": model.velocity(state["video"], t, context)},
        {"video": noise},
        euler_timesteps(steps, 2.0, even=True),
    )["video"]
    return codec.decode(latents).transpose(1, 2)


def _psnr(a: Tensor, b: Tensor) -> Float[Tensor, "b k"]:
    return 10 * torch.log10(4 / (a.clamp(-1, 1) - b).square().mean(dim=(2, 3, 4)))
