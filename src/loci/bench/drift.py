"""Does a walk decay? Late frames against early ones, and a picture that is only looked at."""

import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from loci.bench.features import Features, frechet_distance
from loci.bench.plans import DriftPlan
from loci.bench.scores import psnr
from loci.bench.trials import fitted, walk_on
from loci.data.doom import film
from loci.data.scripted import there_and_back
from loci.world.world import World

Frames = UInt8[np.ndarray, "n h w 3"]


def drift(
    world: World,
    plan: DriftPlan,
    maps: Sequence[int],
    reference_maps: Sequence[int],
    features: Features,
    seed: int,
) -> dict[str, object]:
    """Frechet distances to real frames of other held-out maps, late over early.

    `true` gives the same distances for the engine's frames on the same walks: what the choice of
    places alone amounts to.
    """
    real = features(np.concatenate([_reference(world, m, plan) for m in reference_maps]))
    made, true = [], []
    seconds = 0.0
    for map_seed in maps:
        actions = there_and_back(map_seed, plan.frames)
        frames = _sized(world, film(map_seed, actions)[0])
        began = time.perf_counter()
        generated, _ = walk_on(world, world.start(frames[0], seed), actions)
        seconds += time.perf_counter() - began
        made.append(np.concatenate([frames[:1], generated]))
        true.append(frames)
    found = {
        name: {part: _distance(walks, span, features, real) for part, span in _parts(plan).items()}
        for name, walks in (("generated", made), ("true", true))
    }
    return {
        "drift_ratio": found["generated"]["late"] / found["generated"]["early"],
        "drift_ratio_true": found["true"]["late"] / found["true"]["early"],
        "frechet_distance": found,
        "frames_per_second": plan.frames * len(maps) / seconds,
    }


def standing_still(world: World, plan: DriftPlan, maps: Sequence[int], seed: int) -> float:
    """PSNR between the first and the last generated frame of doing nothing, mean over maps."""
    scores = []
    nothing = np.zeros((plan.still, 2), np.int64)
    for map_seed in maps:
        frames = _sized(world, film(map_seed, nothing[:0])[0])
        made, _ = walk_on(world, world.start(frames[0], seed), nothing)
        scores.append(psnr(made[:1], made[-1:])[0])
    return float(np.mean(scores))


def _parts(plan: DriftPlan) -> dict[str, tuple[int, int]]:
    return {"early": plan.early, "late": plan.late}


def _reference(world: World, map_seed: int, plan: DriftPlan) -> Frames:
    """As many frames as count as early, spread over a walk."""
    count = plan.early[1] - plan.early[0] + 1
    frames, _ = film(map_seed, there_and_back(map_seed, 2 * 4 * count)[: 4 * count])
    return _sized(world, frames[1::4])


def _distance(
    walks: list[Frames], span: tuple[int, int], features: Features, real: np.ndarray
) -> float:
    frames = np.concatenate([walk[span[0] : span[1] + 1] for walk in walks])
    return frechet_distance(features(frames), real)


def _sized(world: World, frames: Frames) -> Frames:
    height, width = world.size or frames.shape[1:3]
    return fitted(frames, (height, width))
