"""What `loci bench walk-speed` compares, and one walk by all of it, chunk by chunk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from loci.bench.report import QUICK, MemoryPlan, table, write_json
from loci.caching.presets import Preset, exact, fast, faster
from loci.caching.step_cache import StepCacheConfig
from loci.caching.token_cache import TokenCacheConfig
from loci.io.files import check_writable
from loci.world.world import WalkState, World

if TYPE_CHECKING:
    from loci.world.world import World


EXACT = "exact"
FEWER = (6, 3, 1)
"""Euler steps, besides those of `fast` and `faster`."""
CACHED = (0.05, 0.1, 0.4)
"""Tolerances of step caching."""
STRIDES = (2, 3)
"""Of step caching without a budget: after the first two steps one in so many is evaluated."""
CARVED = (0.05, 0.1, 0.4)
"""Tolerances of carving."""


class WalkMethod(NamedTuple):
    """One row of the comparison.

    Attributes:
        name: of the row.
        group: what kind of sparing it is.
        speed: at which is walked.
        steps: of a chunk, None for as many as the world takes.
    """

    name: str
    group: str
    speed: Preset
    steps: int | None = None

    def of(self, world: World) -> World:
        """The world, walked this way, with a ledger of its own."""
        other = world.at_speed(self.speed)
        if self.steps is not None:
            sampling = replace(world.config.sampling, steps=self.steps)
            other.config = replace(world.config, sampling=sampling)
        return other


def walk_methods(steps: int) -> list[WalkMethod]:
    """All rows, exact first; names are distinct.

    Args:
        steps: that the world takes; only fewer are tried.
    """
    named = [
        *((f"cache {t:g}", "step caching", StepCacheConfig(tolerance=t)) for t in CACHED),
        *((f"cache 1 in {n}", "step caching", StepCacheConfig(stride=n)) for n in STRIDES),
        *((f"carve {t:g}", "carving", TokenCacheConfig(tolerance=t)) for t in CARVED),
    ]
    return [
        WalkMethod(EXACT, EXACT, exact()),
        *(WalkMethod(f"{n} steps", "fewer steps", exact(), n) for n in FEWER if n < steps),
        WalkMethod("fast", "fewer steps", fast()),
        WalkMethod("faster", "fewer steps", faster()),
        *(WalkMethod(name, group, Preset(name, walk=walk)) for name, group, walk in named),
    ]


class Walked(NamedTuple):
    """New frames, and how long each chunk took, decoding and remembering included."""

    frames: UInt8[np.ndarray, "n h w 3"]
    seconds: list[float]


def walk_together(
    worlds: Mapping[str, World], state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> dict[str, Walked]:
    """A frame for every action in every world, each going on from its own frames.

    All make the first chunk, then all the second: what else the machine does meanwhile disturbs
    every world alike, so seconds of the same chunk can be compared.

    Args:
        worlds: the same parts at other speeds, by name.
        state: where all begin.
        actions: for all the same.
    """
    states = dict.fromkeys(worlds, state)
    frames: dict[str, list] = {name: [] for name in worlds}
    seconds: dict[str, list[float]] = {name: [] for name in worlds}
    size = next(iter(worlds.values())).chunk
    for at in range(0, len(actions), size):
        following = actions[at + size : at + size + 1]
        ahead = following[0] if len(following) else None
        for name, world in worlds.items():
            began = time.perf_counter()
            made, states[name] = world.step(states[name], actions[at : at + size], ahead)
            seconds[name].append(time.perf_counter() - began)
            frames[name].append(made)
    return {name: Walked(np.concatenate(frames[name]), seconds[name]) for name in worlds}


PLAN = MemoryPlan(lengths=(64, 256))
QUICK_PLAN = replace(QUICK, lengths=(128,), maps=1)
COLUMNS = (
    *("revisit_psnr", "psnr_to_exact", "psnr_to_exact_first_chunk", "drift_ratio"),
    *("action_accuracy", "evaluations", "active_share", "frames_per_second", "speedup"),
)
NOTES = (
    "every row goes the same walks from the same noise, in one process, all rows chunk by chunk "
    "in turn; speedup: the median over chunks of exact's seconds over the row's own, decoding and "
    "remembering included",
    "revisit_psnr: the way out is the engine's, the way back is generated; views more than 40 "
    "degrees away from where the last true frame looks, against the engine's own",
    "psnr_to_exact: against what exact makes of the same way back, 60 for equal frames; over all "
    "of it, and over its first chunk, before errors add up",
    "evaluations: of a chunk; active_share: the mean part of a chunk's tokens in an evaluation",
)


def walk_speed(json: Path, quick: bool = False, seed: int = 0, model: str = "doom") -> None:
    """What may be spared in a walk, and does it last? On held-out Doom maps.

    Args:
        json: where to write the results.
        quick: shorter walks through one map; minutes on one core.
        seed: of the maps, the walks and the noise.
        model: a shipped model, a folder or a hub id.
    """
    check_writable(json)

    from loci.world.world import World

    world = World.from_pretrained(model)
    methods = walk_methods(world.config.sampling.steps)
    results = measure(world, methods, QUICK_PLAN if quick else PLAN, seed)
    write_json(json, {"model": model, "quick": quick, **results})
    print(describe(results))
    print(f"written: {json}")


@dataclass
class Made:
    """What one method made: scores of frames, the free walks whole, what obeyed, seconds."""

    revisit: list[np.ndarray] = field(default_factory=list)
    to_exact: list[np.ndarray] = field(default_factory=list)
    first_chunk: list[np.ndarray] = field(default_factory=list)
    walks: list[np.ndarray] = field(default_factory=list)
    obeyed: list[dict[str, np.ndarray]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    frames: int = 0

    def add(self, walked: Walked) -> None:
        self.seconds += walked.seconds
        self.frames += len(walked.frames)


def measure(world: World, methods: list[WalkMethod], plan: MemoryPlan, seed: int) -> dict[str, Any]:
    """All that goes into the JSON, besides the model's name.

    Args:
        world: at exact.
        methods: exact first.
        plan: the trials, maps and free walks; nobody stands still here.
        seed: of the maps, the walks and the noise.
    """
    from tqdm import tqdm

    from loci.bench.metrics import Features
    from loci.bench.world.control import accuracy
    from loci.bench.world.drift import distances, reference
    from loci.bench.world.recall import held_out_maps

    began, features = time.perf_counter(), Features()
    maps = held_out_maps(2 * plan.maps, seed)
    maps, others = maps[: plan.maps], maps[plan.maps :]
    worlds = {method.name: method.of(world) for method in methods}
    made = {name: Made() for name in worlds}
    true = Made()
    for map_seed, other in tqdm(list(zip(maps, others, strict=True)), unit=" maps"):
        _revisits(worlds, made, plan, map_seed, other, seed)
        _free_walk(worlds, made, true, plan, map_seed, seed)
        _script(worlds, made, true, map_seed, seed)
    real = reference(world, plan.drift, others, features)
    far = {
        name: distances(plan.drift, one.walks, features, real)
        for name, one in [*made.items(), ("true", true)]
    }
    exact = next(iter(made.values()))
    return {
        "seed": seed,
        "maps": maps,
        "lengths": list(plan.lengths),
        "drift_frames": {"early": plan.drift.early, "late": plan.drift.late},
        "feature_network": features.name,
        "drift_ratio_true": far["true"]["late"] / far["true"]["early"],
        "action_accuracy_true": accuracy(true.obeyed),
        "rows": {
            method.name: {
                "group": method.group,
                **row(made[method.name], exact, worlds[method.name]),
                "drift_ratio": far[method.name]["late"] / far[method.name]["early"],
                "frechet_distance": far[method.name],
            }
            for method in methods
        },
        "seconds": time.perf_counter() - began,
        "notes": list(NOTES),
    }


def row(made: Made, exact: Made, world: World) -> dict[str, Any]:
    """The figures of a method, but for drift; `world` is the one it walked in."""
    from loci.bench.world.control import accuracy

    entry = world.ledger.entry("chunks")
    ratios = [e / own for e, own in zip(exact.seconds, made.seconds, strict=True)]
    return {
        "revisit_psnr": _mean(made.revisit),
        "psnr_to_exact": _mean(made.to_exact),
        "psnr_to_exact_first_chunk": _mean(made.first_chunk),
        "action_accuracy": accuracy(made.obeyed),
        "evaluations": entry.made / len(made.seconds),
        "active_share": entry.active_share,
        "frames_per_second": made.frames / sum(made.seconds),
        "speedup": statistics.median(ratios),
        "chunks": len(made.seconds),
        "seconds_by_part": {name: stage.seconds for name, stage in world.ledger.stages.items()},
    }


def _revisits(
    worlds: dict[str, World],
    made: dict[str, Made],
    plan: MemoryPlan,
    map_seed: int,
    other: int,
    seed: int,
) -> None:
    """The way back of every trial of a map."""
    from loci.bench.metrics import psnr
    from loci.bench.world.recall import KINDS, Kind, make_trial, remember
    from loci.envs.doom.engine import FRAME

    world = next(iter(worlds.values()))
    wanted: list[tuple[Kind, int]] = [(kind, n) for n in plan.lengths for kind in KINDS]
    for kind, length in wanted:
        trial = make_trial(kind, length, map_seed, other, world.size or (FRAME, FRAME))
        if not trial.hidden.any():
            continue
        known = trial.frames[: trial.known + 1], trial.actions[: trial.known]
        walked = walk_together(worlds, remember(world, *known, seed), trial.back)
        exact = next(iter(walked.values())).frames
        for name, one in walked.items():
            made[name].add(one)
            made[name].revisit.append(psnr(one.frames[trial.hidden], trial.truth[trial.hidden]))
            made[name].to_exact.append(psnr(one.frames, exact))
            first = slice(0, world.chunk)
            made[name].first_chunk.append(psnr(one.frames[first], exact[first]))


def _free_walk(
    worlds: dict[str, World],
    made: dict[str, Made],
    true: Made,
    plan: MemoryPlan,
    map_seed: int,
    seed: int,
) -> None:
    """Out and back through a map, all of it generated."""
    from loci.bench.world.drift import sized
    from loci.envs.doom.engine import film
    from loci.envs.doom.walks import there_and_back

    world = next(iter(worlds.values()))
    actions = there_and_back(map_seed, plan.drift.frames)
    frames = sized(world, film(map_seed, actions)[0])
    true.walks.append(frames)
    for name, one in walk_together(worlds, world.start(frames[0], seed), actions).items():
        made[name].add(one)
        made[name].walks.append(np.concatenate([frames[:1], one.frames]))


def _script(
    worlds: dict[str, World], made: dict[str, Made], true: Made, map_seed: int, seed: int
) -> None:
    """Every action, one kind after the other."""
    from loci.bench.world.control import SCRIPT, moved, obeyed
    from loci.bench.world.drift import sized
    from loci.envs.doom.engine import film

    world = next(iter(worlds.values()))
    frames, poses = film(map_seed, SCRIPT)
    frames, counted = sized(world, frames), moved(poses)
    true.obeyed.append(obeyed(frames, SCRIPT, counted))
    for name, one in walk_together(worlds, world.start(frames[0], seed), SCRIPT).items():
        made[name].add(one)
        shown = np.concatenate([frames[:1], one.frames])
        made[name].obeyed.append(obeyed(shown, SCRIPT, counted))


def describe(results: dict[str, Any]) -> str:
    """The table and the engine's own figures."""
    head = ["", *(name.replace("_", " ") for name in COLUMNS)]
    rows = [[name, *(row[c] for c in COLUMNS)] for name, row in results["rows"].items()]
    lines = [table(head, rows), ""]
    for name in ("drift_ratio_true", "action_accuracy_true"):
        value = results[name]
        lines.append(f"{name}: {'-' if value is None else format(value, '.3f')}")
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def _mean(parts: list[np.ndarray]) -> float | None:
    """Over the frames of all trials."""
    return float(np.concatenate(parts).mean()) if parts else None
