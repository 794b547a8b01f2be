"""Drift of long walks: late frames against early ones and against the engine."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from loci.actions import DEFAULT_WALK, parse_keys
from loci.bench.metrics import (
    Features,
    contrast,
    cosine_distance,
    frechet_distance,
    gradient_energy,
    psnr,
)
from loci.bench.report import DriftPlan, MemoryPlan
from loci.bench.world.recall import SHARPNESS
from loci.bench.world.trials import film_for, held_out_maps, rollout
from loci.envs.doom.walks import there_and_back
from loci.io.frames import fit
from loci.io.images import read_pixels
from loci.io.models import SHIPPED
from loci.world.world import World

Frames = UInt8[np.ndarray, "n h w 3"]
FeatureRows = Float[np.ndarray, "n d"]
START_PICTURE = SHIPPED / "doom" / "example.png"
"""Where `loci walk` starts by default."""
PUBLISHED_SIZE = (448, 896)
"""Height and width of the frames of a world that follows its picture."""
WINDOW = 512
"""Frames at the start and at the end of a long walk that are compared; fewer in a short one."""
RETURN = 256
"""The default walk is back at its first pose every so many frames."""


@dataclass(frozen=True)
class FreeWalks:
    """Walks out and back that are generated from their first frame, and the engine's own."""

    generated: list[Frames]
    true: list[Frames]
    frames_per_second: float


def free_walks(world: World, plan: DriftPlan, maps: Sequence[int], seed: int) -> FreeWalks:
    """One walk through every map; frame 0 is the engine's."""
    generated, true, seconds = [], [], 0.0
    for map_seed in maps:
        actions = there_and_back(map_seed, plan.frames)
        frames, _ = film_for(world, map_seed, actions)
        began = time.perf_counter()
        new, _ = rollout(world, world.start(frames[0], seed), actions)
        seconds += time.perf_counter() - began
        generated.append(np.concatenate([frames[:1], new]))
        true.append(frames)
    return FreeWalks(generated, true, plan.frames * len(maps) / seconds)


def drift(
    walks: FreeWalks, plan: DriftPlan, features: Features, reference: FeatureRows
) -> dict[str, object]:
    """Fréchet distances of walks to the engine's frames.

    `drift_ratio` compares late with early frames by their distance to real frames of other maps;
    `drift_ratio_true` is the same for the engine's frames on the same walks. `frechet_to_engine`
    compares generated frames with the engine's on the same walk, at its start and at its end.
    """
    found = {
        name: distances(plan, frames, features, reference)
        for name, frames in (("generated", walks.generated), ("true", walks.true))
    }
    end = plan.frames + 1
    parts = {"first": slice(1, plan.first + 1), "last": slice(end - plan.last, end)}
    return {
        "drift_ratio": found["generated"]["late"] / found["generated"]["early"],
        "drift_ratio_true": found["true"]["late"] / found["true"]["early"],
        "frechet_distance": found,
        "frechet_to_engine": {
            name: frechet_distance(
                features(np.concatenate([walk[part] for walk in walks.generated])),
                features(np.concatenate([walk[part] for walk in walks.true])),
            )
            for name, part in parts.items()
        },
        "frames_per_second": walks.frames_per_second,
    }


def sharpness_of_new_views(walks: FreeWalks) -> dict[str, float]:
    """Generated over true sharpness on the way out, where most views are new."""
    out = slice(1, len(walks.true[0]) // 2 + 1)
    return {
        name: float(
            np.mean([measure(walk[out]).mean() for walk in walks.generated])
            / np.mean([measure(walk[out]).mean() for walk in walks.true])
        )
        for name, measure in SHARPNESS.items()
    }


def reference_features(
    world: World, plan: DriftPlan, maps: Sequence[int], features: Features
) -> FeatureRows:
    """Features of the engine's frames: as many per map as count as early, spread over a walk."""
    count = plan.early[1] - plan.early[0] + 1
    walks = [
        film_for(world, m, there_and_back(m, 2 * 4 * count)[: 4 * count])[0][1::4] for m in maps
    ]
    return features(np.concatenate(walks))


def distances(
    plan: DriftPlan, walks: Sequence[Frames], features: Features, reference: FeatureRows
) -> dict[str, float]:
    """Fréchet distances of the early and of the late frames of all walks to the reference."""
    found = {}
    for part, (first, last) in (("early", plan.early), ("late", plan.late)):
        frames = np.concatenate([walk[first : last + 1] for walk in walks])
        found[part] = frechet_distance(features(frames), reference)
    return found


def standing_still(world: World, plan: DriftPlan, maps: Sequence[int], seed: int) -> float:
    """PSNR between the first and the last generated frame of standing still, mean over maps. In a
    static world, too, every frame is generated for this."""
    world = World(replace(world.config, static=False), world.transformer, world.codec)
    scores = []
    nothing = np.zeros((plan.still, 2), np.int64)
    for map_seed in maps:
        frames, _ = film_for(world, map_seed, nothing[:0])
        new, _ = rollout(world, world.start(frames[0], seed), nothing)
        scores.append(psnr(new[:1], new[-1:])[0])
    return float(np.mean(scores))


@dataclass(frozen=True)
class LongWalk:
    """The default walk from one picture: the figures of every frame, and a few whole frames.

    Attributes:
        gradient: gradient energy of frames 1 to n.
        contrast: of the same frames.
        kept: frames by their number; 0 is the start picture.
    """

    gradient: Float[np.ndarray, "n"]
    contrast: Float[np.ndarray, "n"]
    kept: dict[int, UInt8[np.ndarray, "h w 3"]]

    def alive(self, length: int) -> dict[str, float]:
        """How much gradient energy and contrast the last frames have over the first ones, as
        ratios of means over `WINDOW` frames (an eighth of the walk, if it is short)."""
        window = min(WINDOW, length // 8)
        return {
            name: float(values[length - window : length].mean() / values[:window].mean())
            for name, values in (("gradient", self.gradient), ("contrast", self.contrast))
        }


def long_walk(
    world: World,
    picture: UInt8[np.ndarray, "h w 3"],
    length: int,
    seed: int,
    keep: Collection[int] = (),
) -> LongWalk:
    """Walk the default script again and again; frames are dropped unless they are to be kept."""
    actions = np.resize(parse_keys(DEFAULT_WALK), (length, 2))
    state = world.start(picture, seed)
    gradients, contrasts, kept, done = [], [], {0: picture}, 1
    for frames, _ in world.walk(state, actions):
        gradients.append(gradient_energy(frames))
        contrasts.append(contrast(frames))
        kept |= {n: frame for n, frame in enumerate(frames, done) if n in keep}
        done += len(frames)
    return LongWalk(np.concatenate(gradients), np.concatenate(contrasts), kept)


def start_pictures(world: World, count: int, seed: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The default start picture, then first frames of held-out maps."""
    first = fit(read_pixels(START_PICTURE), world.size or PUBLISHED_SIZE)
    still = np.zeros((0, 2), np.int64)
    maps = held_out_maps(count - 1, seed)
    return [first, *(film_for(world, map_seed, still)[0][0] for map_seed in maps)]


def alive(
    world: World, plan: MemoryPlan, features: Features, reference: FeatureRows, seed: int
) -> dict[str, object]:
    """Is a long walk still as sharp at its end as at its beginning?

    `alive_N` is the smaller of the ratios of gradient energy and of contrast, mean over the start
    pictures; 1 is no loss, 0 a grey picture. `drift_ratio_N` is as `drift_ratio`, with the last
    frames as late ones. `start_view` compares the frames at which the walk is back at its start
    with the start picture.
    """
    if not plan.alive:
        return {}
    first, last = plan.drift.early
    late = last - first + 1
    early = set(range(first, last + 1))
    ends = {length: set(range(length - late + 1, length + 1)) for length in plan.alive}
    returns = set(range(RETURN, max(plan.alive) + 1, RETURN))
    keep = early.union(returns, *ends.values())
    pictures = start_pictures(world, plan.pictures, seed)
    walks = [long_walk(world, picture, max(plan.alive), seed, keep) for picture in pictures]

    def distance(numbers: set[int]) -> float:
        shown = np.stack([walk.kept[n] for walk in walks for n in sorted(numbers)])
        return frechet_distance(features(shown), reference)

    found: dict[str, object] = {}
    near = distance(early)
    for length in plan.alive:
        ratios = [walk.alive(length) for walk in walks]
        each = [min(ratio.values()) for ratio in ratios]
        found[f"alive_{length}"] = float(np.mean(each))
        found[f"alive_{length}_by_walk"] = ratios
        found[f"drift_ratio_{length}"] = distance(ends[length]) / near
    return {**found, "start_view": _start_view(walks, sorted(returns), features)}


def _start_view(
    walks: Sequence[LongWalk], numbers: Sequence[int], features: Features
) -> dict[str, dict[str, float]]:
    """By frame number, how near the frame is to the start picture, mean over the walks."""
    starts = np.stack([walk.kept[0] for walk in walks])
    start_features = features(starts)
    found = {}
    for number in numbers:
        frames = np.stack([walk.kept[number] for walk in walks])
        found[str(number)] = {
            "psnr": float(psnr(frames, starts).mean()),
            "feature_distance": float(cosine_distance(features(frames), start_features).mean()),
        }
    return found
