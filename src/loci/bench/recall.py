"""Does a view that comes back look as it did? Every memory on the same trials."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from loci.bench.features import Features, cosine_distance
from loci.bench.scores import psnr, ssim
from loci.bench.trials import Trial, remember, walk_on
from loci.bench.variants import TIME, variants
from loci.memory.codes import Codes
from loci.world.picture import frames_to_tensor, tensor_to_frames
from loci.world.world import World

VARIANTS = ("hpmc", "keepsakes", "age", "none", "wrong", "window", "stride", "raw", TIME, "ceiling")
MEASURES = ("psnr", "ssim", "feature_distance")
Means = dict[str, float | None]


@dataclass
class Tally:
    """Scores of single frames under (measure, kind, length, variant)."""

    scores: dict[tuple[str, str, int, str], list[Float[np.ndarray, "n"]]] = field(
        default_factory=dict
    )

    def add(self, measure: str, trial: Trial, variant: str, values: Float[np.ndarray, "n"]) -> None:
        key = (measure, trial.kind, trial.length, variant)
        self.scores.setdefault(key, []).append(values)

    def means(
        self, measure: str, names: Iterable[str], kind: str | None = None, length: int | None = None
    ) -> Means:
        """By variant, over every frame of the trials asked for; None where there is none."""
        found: Means = {}
        for name in names:
            parts = [
                values
                for (what, k, n, variant), listed in self.scores.items()
                if what == measure and variant == name and kind in (None, k) and length in (None, n)
                for values in listed
            ]
            pooled = np.concatenate(parts) if parts else np.empty(0)
            found[name] = float(pooled.mean()) if len(pooled) else None
        return found


def recall(
    tally: Tally,
    world: World,
    time_world: World | None,
    trial: Trial,
    features: Features,
    seed: int,
) -> None:
    """The way out is the engine's, the way back is generated and compared with the engine's.

    Only hidden views count. `time` is another world, with its own shipped memory; `ceiling` what
    is left of the true frames after the codec.
    """
    if not trial.hidden.any():
        return
    seen = trial.frames[: trial.known + 1], trial.actions[: trial.known]
    worlds = variants(world, _codes(world, trial))
    if time_world is not None:
        worlds[TIME] = time_world
    true_features = features(trial.truth[trial.hidden])
    shown = {
        name: walk_on(variant, remember(variant, *seen, seed), trial.back)[0]
        for name, variant in worlds.items()
    }
    shown["ceiling"] = reconstructed(world, trial.truth)
    for name, frames in shown.items():
        _score(tally, trial, name, frames, features, true_features)


def self_consistency(tally: Tally, worlds: dict[str, World], trial: Trial, seed: int) -> None:
    """All is generated, from the first picture on: is the way back like the way out?"""
    for name, world in worlds.items():
        start = world.start(trial.frames[0], seed)
        made, _ = walk_on(world, start, trial.actions)
        frames = np.concatenate([trial.frames[:1], made])
        then, now = frames[trial.same], frames[trial.known + 1 :]
        tally.add("self_psnr", trial, name, psnr(now[trial.hidden], then[trial.hidden]))


def reconstructed(
    world: World, frames: UInt8[np.ndarray, "n h w 3"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames encoded and decoded again."""
    device = world.transformer.patch_embedding.weight.device
    return tensor_to_frames(
        world.codec.decode(world.codec.encode(frames_to_tensor(frames).to(device)))
    )


def _codes(world: World, trial: Trial) -> Codes:
    """What is remembered of the other scene."""
    actions = trial.actions[: trial.known]
    state = remember(world, trial.wrong[: trial.known + 1], actions, seed=0)
    return world.memory.codes(state.memory)


def _score(
    tally: Tally,
    trial: Trial,
    name: str,
    frames: UInt8[np.ndarray, "n h w 3"],
    features: Features,
    true_features: Float[np.ndarray, "n d"],
) -> None:
    made, true = frames[trial.hidden], trial.truth[trial.hidden]
    tally.add("psnr", trial, name, psnr(made, true))
    tally.add("ssim", trial, name, ssim(made, true))
    tally.add("feature_distance", trial, name, cosine_distance(features(made), true_features))


def breakdown(tally: Tally, names: Sequence[str], measures: Sequence[str]) -> dict[str, dict]:
    """Means by kind and length: {kind: {length: {measure: {variant: mean}}}, "all" lengths last."""
    keys = sorted(
        {(kind, length) for measure, kind, length, _ in tally.scores if measure in measures}
    )
    found: dict[str, dict] = {kind: {} for kind, _ in keys}
    for kind, length in keys:
        found[kind][str(length)] = {m: tally.means(m, names, kind, length) for m in measures}
    for kind, lengths in found.items():
        lengths["all"] = {m: tally.means(m, names, kind) for m in measures}
    return found
