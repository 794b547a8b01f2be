"""Evaluation of recall: views seen before and out of sight, with true, wrong and empty memory.

Sampled frames are compared to the recorded ones. A gap in the loss is no evidence: models that
cannot recall show a large one at low noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from loci.codecs.base import Codec
from loci.data.latents import LatentWalks
from loci.data.mapped import MappedArray
from loci.errors import LociError
from loci.flow import euler_timesteps, sample
from loci.train.run_directory import RunDirectory
from loci.train.world.batches import HistorySpec, WorldBatch, draw_batch
from loci.train.world.memory_tokens import batch_actions, batch_poses, compress_history
from loci.world.transformer import WorldTransformer

Memory = Literal["true", "wrong", "none"]
SIZE, SHOWN = 24, 12
HISTORIES = {
    "near": HistorySpec((6, 0, 0), 3),
    "far": HistorySpec((2, 4, 0), 3),
    # By themselves: beside unmerged tokens, merged ones can be empty and nobody notices.
    "merged": HistorySpec((0, 8, 0), 3),
    "twice_merged": HistorySpec((0, 0, 2), 3),
    "whole": HistorySpec(stride=3, budget=20, lengths=(512, 513)),
}


@dataclass(frozen=True)
class RecallEvaluation:
    """Held-out batches by history, with the true frames of their targets in [-1, 1], and the first
    held-out frame, to walk from."""

    batches: dict[str, WorldBatch]
    frames: dict[str, Float[Tensor, "b k 3 h w"]]
    codec: Codec
    example: UInt8[np.ndarray, "h w 3"]

    @classmethod
    def prepare(
        cls,
        walks: LatentWalks,
        frames: np.ndarray | MappedArray,
        codec: Codec,
        histories: Mapping[str, HistorySpec] = HISTORIES,
    ) -> "RecallEvaluation":
        """Fixed batches, the same at every evaluation, of those histories that the walks are long
        enough for.

        Raises:
            LociError: when they are long enough for none.
        """
        fitting = {name: spec for name, spec in histories.items() if walks.length >= spec.length}
        if not fitting:
            least = min(spec.length for spec in histories.values())
            raise LociError(
                f"held-out walks of {walks.length} frames are too short to evaluate on, expected "
                f"at least {least}"
            )
        batches = {
            name: draw_batch(walks, spec, SIZE, np.random.default_rng(7), revisits=1.0)
            for name, spec in fitting.items()
        }
        true = {}
        for name, batch in batches.items():
            rows = batch.walks[:, None].numpy(), batch.target_frames.numpy()
            pixels = torch.from_numpy(frames[rows]).permute(0, 1, 4, 2, 3)
            true[name] = pixels.float() / 127.5 - 1
        return cls(batches, true, codec, frames[0, 0])


def evaluate_recall(
    model: WorldTransformer, evaluation: RecallEvaluation, run: RunDirectory | None = None
) -> dict[str, float]:
    """PSNR in dB over hidden targets, by history and memory; writes sheets of the first rows.

    Runs on the model's device.
    """
    scores: dict[str, float] = {}
    device, codec = model.patch_embedding.weight.device, evaluation.codec
    if isinstance(codec, nn.Module):
        codec.to(device)
    for name, batch in evaluation.batches.items():
        true = evaluation.frames[name]
        frames = {kind: predict_frames(model, batch, kind, codec) for kind in get_args(Memory)}
        latents = batch.target.transpose(1, 2).to(device)
        frames["ceiling"] = codec.decode(latents).transpose(1, 2).cpu()
        for kind, predicted in frames.items():
            scores[f"{name}_{kind}"] = _psnr(predicted, true)[batch.hidden].mean().item()
        if run is not None:
            shown = range(min(SHOWN, len(true)))
            rows = [torch.cat([true[i], frames["true"][i], frames["none"][i]]) for i in shown]
            run.sheet(f"recall_{name}", rows)
    return scores


@torch.no_grad()
def predict_frames(
    model: WorldTransformer, batch: WorldBatch, memory: Memory, codec: Codec, steps: int = 8
) -> Float[Tensor, "b k 3 h w"]:
    """Sampled target frames, on the CPU. `wrong` gives every example its neighbour's memory."""
    return codec.decode(predict_latents(model, batch, memory, steps)).transpose(1, 2).cpu()


@torch.no_grad()
def predict_latents(
    model: WorldTransformer, batch: WorldBatch, memory: Memory, steps: int = 8
) -> Float[Tensor, "b c k h w"]:
    """`predict_frames` before they are decoded, on the model's device."""
    device = model.patch_embedding.weight.device
    history = compress_history(model.memory_encoder, batch)
    if memory == "wrong":
        history = history._replace(tokens=history.tokens.roll(1, 0))
    elif memory == "none":
        empty = replace(batch, spans=tuple(s[:, :0] for s in batch.spans))
        history = compress_history(model.memory_encoder, empty)
    context = model.context(
        history.tokens,
        batch.local[:, :, None].to(device),
        batch_actions(batch, device),
        poses=batch_poses(batch, history),
    )
    shape = batch.target.transpose(1, 2).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    return sample(
        lambda state, t: {"latents": model.velocity(state["latents"], t, context)},
        {"latents": noise},
        euler_timesteps(steps, 2.0, uniform=True),
    )["latents"]


def _psnr(a: Tensor, b: Tensor) -> Float[Tensor, "b k"]:
    return 10 * torch.log10(4 / (a.clamp(-1, 1) - b).square().mean(dim=(2, 3, 4)))
