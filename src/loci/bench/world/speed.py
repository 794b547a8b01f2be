"""`loci bench walk-speed`: what do faster presets save in a walk, and what do they cost?"""

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
from loci.io.files import check_writable

if TYPE_CHECKING:
    from loci.bench.world.variants import WalkMethod
    from loci.world.latent_world import WalkState
from loci.world.world import World

PLAN = MemoryPlan(lengths=(64, 256))
QUICK_PLAN = replace(QUICK, lengths=(128,), maps=1)
COLUMNS = (
    *("revisit_psnr", "psnr_to_exact", "psnr_to_exact_first_chunk", "drift_ratio", "sharpness"),
    *("contrast", "action_accuracy", "evaluations", "active_share", "frames_per_second", "speedup"),
)
NOTES = (
    "every row walks the same actions from the same noise, in one process, chunk by chunk in turn; "
    "speedup: the median over chunks of exact's seconds over the row's, decoding and memory "
    "included",
    "revisit_psnr: the way out is the engine's, the way back is generated; only views more than "
    "40 degrees away from the last given frame count, against the engine's frames",
    "psnr_to_exact: against exact's frames of the same way back (60 for equal frames): all of it, "
    "and its first chunk, before errors accumulate",
    "sharpness, contrast: gradient energy and standard deviation of the drift walk's frames, over "
    "those of the engine's: fog has little of either, and PSNR forgives it",
    "evaluations: per chunk; active_share: mean share of a chunk's tokens in an evaluation",
)


def walk_speed(json: Path, quick: bool = False, seed: int = 0, model: str = "doom") -> None:
    """Measure speed and quality of faster ways to walk, on held-out Doom maps.

    Args:
        json: where to write the results.
        quick: shorter walks through one map; minutes on one core.
        seed: seed of the maps, the walks and the noise.
        model: a shipped model, a folder or a hub id.
    """
    check_writable(json)

    from loci.bench.world.variants import walk_methods
    from loci.world.world import World

    world = World.from_pretrained(model)
    methods = walk_methods(world.config.sampling.steps)
    results = measure(world, methods, QUICK_PLAN if quick else PLAN, seed)
    write_json(json, {"model": model, "quick": quick, **results})
    print(describe(results))
    print(f"written: {json}")


class TimedWalk(NamedTuple):
    """New frames, and the seconds of each chunk, decoding and memory included."""

    frames: UInt8[np.ndarray, "n h w 3"]
    seconds: list[float]


def walk_in_turn(
    worlds: Mapping[str, World], state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> dict[str, TimedWalk]:
    """A frame for every action in every world, each continuing its own frames.

    All make the first chunk, then all the second, so that other load on the machine slows all of
    them alike and the seconds of a chunk can be compared.

    Args:
        worlds: the same parts with different presets, by name.
        state: where all begin.
        actions: of all worlds.
    """
    states = dict.fromkeys(worlds, state)
    frames: dict[str, list] = {name: [] for name in worlds}
    seconds: dict[str, list[float]] = {name: [] for name in worlds}
    size = next(iter(worlds.values())).chunk_frames
    for at in range(0, len(actions), size):
        end = at + size
        next_action = actions[end] if end < len(actions) else None
        for name, world in worlds.items():
            began = time.perf_counter()
            new, states[name] = world.step(states[name], actions[at:end], next_action)
            seconds[name].append(time.perf_counter() - began)
            frames[name].append(new)
    return {name: TimedWalk(np.concatenate(frames[name]), seconds[name]) for name in worlds}


@dataclass
class MethodScores:
    """What was measured of one method: PSNR by frame, free walks, correct motion, seconds."""

    revisit: list[np.ndarray] = field(default_factory=list)
    to_exact: list[np.ndarray] = field(default_factory=list)
    first_chunk: list[np.ndarray] = field(default_factory=list)
    walks: list[np.ndarray] = field(default_factory=list)
    correct: list[dict[str, np.ndarray]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    frames: int = 0

    def add(self, walk: TimedWalk) -> None:
        self.seconds += walk.seconds
        self.frames += len(walk.frames)


def measure(world: World, methods: list[WalkMethod], plan: MemoryPlan, seed: int) -> dict[str, Any]:
    """All results, without the model's name.

    Args:
        world: with the preset exact.
        methods: exact first.
        plan: the trials, maps and free walks.
        seed: seed of the maps, the walks and the noise.
    """
    from tqdm import tqdm

    from loci.bench.metrics import Features
    from loci.bench.world.control import accuracy
    from loci.bench.world.drift import distances, reference_features
    from loci.bench.world.trials import held_out_maps

    began, features = time.perf_counter(), Features()
    maps = held_out_maps(2 * plan.maps, seed)
    maps, others = maps[: plan.maps], maps[plan.maps :]
    worlds = {method.name: method.apply(world) for method in methods}
    scores = {name: MethodScores() for name in worlds}
    true = MethodScores()
    for map_seed, other in tqdm(list(zip(maps, others, strict=True)), unit=" maps"):
        _revisits(worlds, scores, plan, map_seed, other, seed)
        _free_walk(worlds, scores, true, plan, map_seed, seed)
        _script(worlds, scores, true, map_seed, seed)
    reference = reference_features(world, plan.drift, others, features)
    frechet = {
        name: distances(plan.drift, one.walks, features, reference)
        for name, one in [*scores.items(), ("true", true)]
    }
    exact = next(iter(scores.values()))
    return {
        "seed": seed,
        "maps": maps,
        "lengths": list(plan.lengths),
        "drift_frames": {"early": plan.drift.early, "late": plan.drift.late},
        "feature_network": features.name,
        "drift_ratio_true": frechet["true"]["late"] / frechet["true"]["early"],
        "action_accuracy_true": accuracy(true.correct),
        "rows": {
            method.name: {
                "group": method.group,
                **row(scores[method.name], exact, worlds[method.name]),
                **sharpness(scores[method.name].walks, true.walks),
                "drift_ratio": frechet[method.name]["late"] / frechet[method.name]["early"],
                "frechet_distance": frechet[method.name],
            }
            for method in methods
        },
        "seconds": time.perf_counter() - began,
        "notes": list(NOTES),
    }


def row(scores: MethodScores, exact: MethodScores, world: World) -> dict[str, Any]:
    """The figures of a method, without drift; `world` is the one it walked in."""
    from loci.bench.world.control import accuracy

    sampling = world.stats.stage("sampling")
    ratios = [a / b for a, b in zip(exact.seconds, scores.seconds, strict=True)]
    return {
        "revisit_psnr": _mean(scores.revisit),
        "psnr_to_exact": _mean(scores.to_exact),
        "psnr_to_exact_first_chunk": _mean(scores.first_chunk),
        "action_accuracy": accuracy(scores.correct),
        "evaluations": sampling.evaluations / len(scores.seconds),
        "active_share": sampling.active_share,
        "frames_per_second": scores.frames / sum(scores.seconds),
        "speedup": statistics.median(ratios),
        "chunks": len(scores.seconds),
        "seconds_by_stage": {name: stage.seconds for name, stage in world.stats.stages.items()},
    }


def sharpness(walks: list[np.ndarray], true: list[np.ndarray]) -> dict[str, float]:
    """Over the engine's; the start picture, which is given, is left out."""
    from loci.bench.metrics import contrast, gradient_energy

    measures = {"sharpness": gradient_energy, "contrast": contrast}
    return {
        name: float(
            np.concatenate([of(walk[1:]) for walk in walks]).mean()
            / np.concatenate([of(walk[1:]) for walk in true]).mean()
        )
        for name, of in measures.items()
    }


def _revisits(
    worlds: dict[str, World],
    scores: dict[str, MethodScores],
    plan: MemoryPlan,
    map_seed: int,
    other: int,
    seed: int,
) -> None:
    """The way back of every trial of a map."""
    from loci.bench.metrics import psnr
    from loci.bench.world.trials import KINDS, Kind, encode_history, make_trial

    world = next(iter(worlds.values()))
    wanted: list[tuple[Kind, int]] = [(kind, n) for n in plan.lengths for kind in KINDS]
    for kind, length in wanted:
        trial = make_trial(kind, length, map_seed, other, world)
        if not trial.hidden.any():
            continue
        state = encode_history(world, *trial.given, seed)
        walks = walk_in_turn(worlds, state, trial.way_back)
        exact = next(iter(walks.values())).frames
        for name, walk in walks.items():
            method = scores[name]
            method.add(walk)
            method.revisit.append(psnr(walk.frames[trial.hidden], trial.truth[trial.hidden]))
            method.to_exact.append(psnr(walk.frames, exact))
            first = slice(0, world.chunk_frames)
            method.first_chunk.append(psnr(walk.frames[first], exact[first]))


def _free_walk(
    worlds: dict[str, World],
    scores: dict[str, MethodScores],
    true: MethodScores,
    plan: MemoryPlan,
    map_seed: int,
    seed: int,
) -> None:
    """Out and back through a map, generated from its first frame."""
    from loci.bench.world.trials import film_for
    from loci.envs.doom.walks import there_and_back

    world = next(iter(worlds.values()))
    actions = there_and_back(map_seed, plan.drift.frames)
    frames, _ = film_for(world, map_seed, actions)
    true.walks.append(frames)
    for name, walk in walk_in_turn(worlds, world.start(frames[0], seed), actions).items():
        scores[name].add(walk)
        scores[name].walks.append(np.concatenate([frames[:1], walk.frames]))


def _script(
    worlds: dict[str, World],
    scores: dict[str, MethodScores],
    true: MethodScores,
    map_seed: int,
    seed: int,
) -> None:
    """Every kind of action, one after the other."""
    from loci.bench.world.control import SCRIPT, correct_motion, moved
    from loci.bench.world.trials import film_for

    world = next(iter(worlds.values()))
    frames, poses = film_for(world, map_seed, SCRIPT)
    counted = moved(poses)
    true.correct.append(correct_motion(frames, SCRIPT, counted))
    for name, walk in walk_in_turn(worlds, world.start(frames[0], seed), SCRIPT).items():
        scores[name].add(walk)
        shown = np.concatenate([frames[:1], walk.frames])
        scores[name].correct.append(correct_motion(shown, SCRIPT, counted))


def describe(results: dict[str, Any]) -> str:
    """The table, and the engine's own figures."""
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
