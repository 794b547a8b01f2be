"""Does a walk decay? Late frames against early ones, and a picture that is only looked at."""

import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from loci.bench.metrics import Features, frechet_distance, psnr
from loci.bench.report import DriftPlan
from loci.bench.world.recall import fitted, walk_on
from loci.envs.doom.engine import film
from loci.envs.doom.walks import there_and_back
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
    real = reference(world, plan, reference_maps, features)
    made, true = [], []
    seconds = 0.0
    for map_seed in maps:
        actions = there_and_back(map_seed, plan.frames)
        frames = sized(world, film(map_seed, actions)[0])
        began = time.perf_counter()
        generated, _ = walk_on(world, world.start(frames[0], seed), actions)
        seconds += time.perf_counter() - began
        made.append(np.concatenate([frames[:1], generated]))
        true.append(frames)
    found = {
        name: distances(plan, walks, features, real)
        for name, walks in (("generated", made), ("true", true))
    }
    return {
        "drift_ratio": found["generated"]["late"] / found["generated"]["early"],
        "drift_ratio_true": found["true"]["late"] / found["true"]["early"],
        "frechet_distance": found,
        "frames_per_second": plan.frames * len(maps) / seconds,
    }


def reference(
    world: World, plan: DriftPlan, maps: Sequence[int], features: Features
) -> Float[np.ndarray, "n d"]:
    """Features of the engine's frames: per map as many as count as early, spread over a walk."""
    count = plan.early[1] - plan.early[0] + 1
    walks = [film(m, there_and_back(m, 2 * 4 * count)[: 4 * count])[0][1::4] for m in maps]
    return features(np.concatenate([sized(world, frames) for frames in walks]))


def distances(
    plan: DriftPlan, walks: Sequence[Frames], features: Features, real: Float[np.ndarray, "n d"]
) -> dict[str, float]:
    """Frechet distances of the early and the late frames of all walks to the features `real`."""
    found = {}
    for part, (first, last) in (("early", plan.early), ("late", plan.late)):
        frames = np.concatenate([walk[first : last + 1] for walk in walks])
        found[part] = frechet_distance(features(frames), real)
    return found


def standing_still(world: World, plan: DriftPlan, maps: Sequence[int], seed: int) -> float:
    """PSNR between the first and the last generated frame of doing nothing, mean over maps."""
    scores = []
    nothing = np.zeros((plan.still, 2), np.int64)
    for map_seed in maps:
        frames = sized(world, film(map_seed, nothing[:0])[0])
        made, _ = walk_on(world, world.start(frames[0], seed), nothing)
        scores.append(psnr(made[:1], made[-1:])[0])
    return float(np.mean(scores))


def sized(world: World, frames: Frames) -> Frames:
    """Frames of the size that the world makes."""
    height, width = world.size or frames.shape[1:3]
    return fitted(frames, (height, width))
