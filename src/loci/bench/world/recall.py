"""Recall of views out of sight: every kind of memory, scored frame by frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from loci.bench.metrics import (
    Features,
    cosine_distance,
    gradient_energy,
    laplacian_variance,
    psnr,
    ssim,
)
from loci.bench.world.trials import Trial, encode_history, rollout
from loci.bench.world.variants import TIME, memory_variants
from loci.io.frames import frames_to_tensor, tensor_to_frames
from loci.memory.memory_tokens import MemoryTokens
from loci.world.world import World

CODEC, TRUE = "codec", "true"
VARIANTS = (
    *(
        "hpmc",
        "keyframes",
        "merged",
        "age",
        "none",
        "wrong",
        "window",
        "stride",
        "raw",
        TIME,
        CODEC,
    ),
)
"""`codec` is the upper bound: the true frames, encoded and decoded."""
METRICS = ("psnr", "ssim", "feature_distance")
SHARPNESS = {"gradient": gradient_energy, "laplacian": laplacian_variance}
Means = dict[str, float | None]


@dataclass
class FrameScores:
    """Scores of single frames by (metric, kind, length, variant)."""

    scores: dict[tuple[str, str, int, str], list[Float[np.ndarray, "n"]]] = field(
        default_factory=dict
    )

    def add(self, metric: str, trial: Trial, variant: str, values: Float[np.ndarray, "n"]) -> None:
        key = (metric, trial.kind, trial.length, variant)
        self.scores.setdefault(key, []).append(values)

    def means(
        self, metric: str, names: Iterable[str], kind: str | None = None, length: int | None = None
    ) -> Means:
        """The mean over all frames by variant; None where there are none."""
        found: Means = {}
        for name in names:
            parts = [
                values
                for (other, k, n, variant), listed in self.scores.items()
                if other == metric and variant == name and kind in (None, k) and length in (None, n)
                for values in listed
            ]
            pooled = np.concatenate(parts) if parts else np.empty(0)
            found[name] = float(pooled.mean()) if len(pooled) else None
        return found


def score_recall(
    scores: FrameScores,
    world: World,
    time_world: World | None,
    trial: Trial,
    features: Features,
    seed: int,
) -> None:
    """Generate the way back with every memory and compare its hidden views with the engine's.

    `time` is another world with its own memory; `codec` reconstructs the true frames.
    """
    if not trial.hidden.any():
        return
    worlds = memory_variants(world, _wrong_tokens(world, trial))
    if time_world is not None:
        worlds[TIME] = time_world
    frames = {
        name: rollout(variant, encode_history(variant, *trial.given, seed), trial.way_back)[0]
        for name, variant in worlds.items()
    }
    frames[CODEC] = reconstructed(world, trial.truth)
    true = trial.truth[trial.hidden]
    true_features = features(true)
    for name, shown in frames.items():
        hidden = shown[trial.hidden]
        distance = cosine_distance(features(hidden), true_features)
        scores.add("psnr", trial, name, psnr(hidden, true))
        scores.add("ssim", trial, name, ssim(hidden, true))
        scores.add("feature_distance", trial, name, distance)
    for metric, measure in SHARPNESS.items():
        scores.add(metric, trial, "hpmc", measure(frames["hpmc"][trial.hidden]))
        scores.add(metric, trial, TRUE, measure(true))


def score_self_consistency(
    scores: FrameScores, worlds: dict[str, World], trial: Trial, seed: int
) -> None:
    """Generate the whole walk from its first frame; compare the way back with the way out."""
    for name, world in worlds.items():
        generated, _ = rollout(world, world.start(trial.frames[0], seed), trial.actions)
        frames = np.concatenate([trial.frames[:1], generated])
        before, now = frames[trial.earlier_match], frames[trial.split + 1 :]
        scores.add("self_psnr", trial, name, psnr(now[trial.hidden], before[trial.hidden]))


def reconstructed(
    world: World, frames: UInt8[np.ndarray, "n h w 3"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames encoded and decoded again."""
    latents = world.codec.encode(frames_to_tensor(frames).to(world.device))
    return tensor_to_frames(world.codec.decode(latents))


def _wrong_tokens(world: World, trial: Trial) -> MemoryTokens:
    """The memory of the other map."""
    _, actions = trial.given
    state = encode_history(world, trial.other_map[: trial.split + 1], actions, seed=0)
    return world.memory.tokens(state.memory)


def breakdown(
    scores: FrameScores, names: Sequence[str], metrics: Sequence[str]
) -> dict[str, dict[str, dict]]:
    """Means as {kind: {length: {metric: {variant: mean}}}}; the length "all" comes last."""
    keys = sorted(
        {(kind, length) for metric, kind, length, _ in scores.scores if metric in metrics}
    )
    found: dict[str, dict] = {kind: {} for kind, _ in keys}
    for kind, length in keys:
        found[kind][str(length)] = {m: scores.means(m, names, kind, length) for m in metrics}
    for kind, lengths in found.items():
        lengths["all"] = {m: scores.means(m, names, kind) for m in metrics}
    return found
