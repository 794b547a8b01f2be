"""`loci bench memory`: recall, drift, sharpness and action accuracy on held-out Doom maps."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.report import (
    QUICK,
    MemoryPlan,
    confidence_intervals,
    difference,
    mean_over_seeds,
    ratio,
    table,
    write_json,
)
from loci.errors import LociError
from loci.io.files import check_writable

if TYPE_CHECKING:
    from loci.bench.world.recall import FrameScores
    from loci.world.world import World


FREE = ("hpmc", "none")
"""The memories with which whole walks are generated."""
HEADLINE = (
    *("spin_below_codec_db", "spin_below_codec_feature_distance", "walk512_over_none_db"),
    *("sharpness_gradient", "sharpness_laplacian", "alive_4096", "alive_10000"),
    *("drift_ratio", "drift_ratio_true", "drift_ratio_4096", "drift_ratio_10000"),
    *("frechet_first", "frechet_last", "standing_still_psnr"),
    *("action_accuracy", "action_accuracy_true", "move_accuracy_over_4"),
    *("move_accuracy_over_4_true", "frames_per_second"),
)
"""The figures that are printed, and have an interval when there are several seeds."""
NOTES = (
    "revisit: the way out is the engine's, the way back is generated; only views more than 40 "
    "degrees away from the last given frame count, against the engine's frames",
    "codec: the engine's frames encoded and decoded, the upper bound",
    "self_consistency: the whole walk is generated, on the first map; the way back against the "
    "way out",
    "length: actions of a trial; a walk spends half of them on the way back, a spin its last 48",
    "sharpness: gradient energy and Laplacian variance of generated over true views; seen: the way "
    "back of the trials, new: the way out of the free walks; the smaller counts",
    "frechet_first, frechet_last: features of generated frames against the engine's on the same "
    "walks",
    "alive_N: gradient energy and contrast of the last 512 of N frames of the default walk over "
    "those of the first 512; the smaller counts, mean over start pictures",
)


def memory(
    json: Path,
    quick: bool = False,
    seed: int = 0,
    seeds: int = 1,
    model: str = "doom",
    time_model: str | None = None,
    lengths: tuple[int, ...] | None = None,
    maps: int | None = None,
    alive: tuple[int, ...] | None = None,
    pictures: int | None = None,
) -> None:
    """Measure recall, drift, sharpness and action accuracy of a world model.

    Args:
        json: where to write the results.
        quick: shorter walks, fewer maps, no long walks: minutes on two cores instead of an hour.
        seed: seed of the maps, the walks and the noise.
        seeds: how many seeds to measure, from this one on; 95 % intervals from two on.
        model: a shipped model, a folder or a hub id.
        time_model: a model with time addressing to compare with, named alike.
        lengths: actions of the trials; 64 128 256 512 1024 by default.
        maps: how many held-out maps; 3 by default.
        alive: lengths of the long walks in frames; 4096 by default, give 4096 10000 for both.
        pictures: how many start pictures the long walks have; 3 by default.
    """
    if seeds < 1:
        raise LociError(f"--seeds: {seeds}, expected at least 1")
    given = {"lengths": lengths, "maps": maps, "alive": alive, "pictures": pictures}
    changed = {name: value for name, value in given.items() if value is not None}
    plan: MemoryPlan = replace(QUICK if quick else MemoryPlan(), **changed)
    check_writable(json)

    from loci.world.world import World

    world = World.from_pretrained(model)
    rival = None if time_model is None else World.from_pretrained(time_model)
    numbers = list(range(seed, seed + seeds))
    runs = [measure(world, rival, plan, number) for number in numbers]
    results = {"model": model, "time_model": time_model, "quick": quick, **mean_over_seeds(runs)}
    results["seed"] = seed
    if seeds > 1:
        intervals = confidence_intervals(runs, HEADLINE)
        results |= {"seeds": numbers, "intervals_95": intervals, "runs": runs}
    write_json(json, results)
    print(describe(results))


def measure(world: World, rival: World | None, plan: MemoryPlan, seed: int) -> dict[str, Any]:
    """All results of one seed."""
    from loci.bench.metrics import Features
    from loci.bench.world.control import action_accuracy
    from loci.bench.world.drift import (
        alive,
        drift,
        free_walks,
        reference_features,
        sharpness_of_new_views,
        standing_still,
    )
    from loci.bench.world.recall import METRICS, VARIANTS, breakdown
    from loci.bench.world.trials import held_out_maps

    began, features = time.perf_counter(), Features()
    maps = held_out_maps(2 * plan.maps, seed)
    maps, others = maps[: plan.maps], maps[plan.maps :]
    scores = _trials(world, rival, plan, list(zip(maps, others, strict=True)), seed, features)
    walks = free_walks(world, plan.drift, maps, seed)
    reference = reference_features(world, plan.drift, others, features)
    drifted: dict[str, Any] = drift(walks, plan.drift, features, reference)
    sharpness = {"seen": _sharpness_of_seen_views(scores), "new": sharpness_of_new_views(walks)}
    return {
        "seed": seed,
        "maps": maps,
        "lengths": list(plan.lengths),
        "feature_network": features.name,
        **{f"revisit_{metric}": scores.means(metric, VARIANTS) for metric in METRICS},
        "by_kind": breakdown(scores, VARIANTS, METRICS),
        **_recall_figures(scores),
        "self_consistency": breakdown(scores, FREE, ("self_psnr",)),
        "not_measured": _reasons(world, rival),
        "drift_frames": {"early": plan.drift.early, "late": plan.drift.late},
        **drifted,
        "frechet_first": drifted["frechet_to_engine"]["first"],
        "frechet_last": drifted["frechet_to_engine"]["last"],
        "sharpness": sharpness,
        **{f"sharpness_{name}": _smaller(sharpness, name) for name in sharpness["new"]},
        "standing_still_frames": plan.drift.still,
        "standing_still_psnr": standing_still(world, plan.drift, maps, seed),
        **action_accuracy(world, maps, seed),
        "alive_4096": None,
        "alive_10000": None,
        **alive(world, plan, features, reference, seed),
        "seconds": time.perf_counter() - began,
        "notes": list(NOTES),
    }


def _trials(
    world: World,
    rival: World | None,
    plan: MemoryPlan,
    maps: list[tuple[int, int]],
    seed: int,
    features: Any,
) -> FrameScores:
    """Every trial on every map; `maps` are pairs of a map and one for the wrong memory."""
    from tqdm import tqdm

    from loci.bench.world.recall import FrameScores, score_recall, score_self_consistency
    from loci.bench.world.trials import KINDS, Kind, make_trial
    from loci.bench.world.variants import memory_variants

    scores = FrameScores()
    free = {name: w for name, w in memory_variants(world).items() if name in FREE}
    wanted: list[tuple[Kind, int, int]]
    wanted = [(kind, n, k) for n in plan.lengths for kind in KINDS for k in range(len(maps))]
    for kind, length, k in tqdm(wanted, unit=" trials"):
        trial = make_trial(kind, length, *maps[k], world)
        score_recall(scores, world, rival, trial, features, seed)
        if k == 0:
            score_self_consistency(scores, free, trial, seed)
    return scores


def _recall_figures(scores: FrameScores) -> dict[str, float | None]:
    """Recall after spins below the codec, and after walks of 512 frames over no memory."""
    names = ("hpmc", "codec", "none")
    spins = {m: scores.means(m, names, "spin") for m in ("psnr", "feature_distance")}
    walk = scores.means("psnr", names, "walk", 512)
    psnr, distance = spins["psnr"], spins["feature_distance"]
    return {
        "spin_below_codec_db": difference(psnr["codec"], psnr["hpmc"]),
        "spin_below_codec_feature_distance": difference(distance["hpmc"], distance["codec"]),
        "walk512_over_none_db": difference(walk["hpmc"], walk["none"]),
    }


def _sharpness_of_seen_views(scores: FrameScores) -> dict[str, float | None]:
    """Generated over true sharpness of the hidden views on the way back."""
    from loci.bench.world.recall import SHARPNESS, TRUE

    means = {name: scores.means(name, ("hpmc", TRUE)) for name in SHARPNESS}
    return {name: ratio(mean["hpmc"], mean[TRUE]) for name, mean in means.items()}


def _smaller(sharpness: dict[str, dict[str, Any]], name: str) -> float:
    return min(part[name] for part in sharpness.values() if part[name] is not None)


def _reasons(world: World, rival: World | None) -> dict[str, str]:
    """Why some memories are not measured."""
    from loci.bench.world.variants import (
        AGE_REASON,
        KEYFRAMES_REASON,
        MERGED_REASON,
        RAW_REASON,
        TIME,
        TIME_REASON,
        fewer_keyframes,
        takes_raw_latents,
    )

    reasons = {} if takes_raw_latents(world) else {"raw": RAW_REASON}
    if world.config.memory.merging.merge_by == "age":
        reasons["age"] = AGE_REASON
    if fewer_keyframes(world.config.memory) is None or world.config.action_scale is None:
        reasons["keyframes"] = KEYFRAMES_REASON
    if not world.config.memory.merging.keyframes:
        reasons["merged"] = MERGED_REASON
    return reasons if rival is not None else {**reasons, TIME: TIME_REASON}


def describe(results: dict[str, Any]) -> str:
    """All tables as text."""
    intervals = results.get("intervals_95", {})
    lines = [_revisits(results), "", _free(results), ""]
    for name in HEADLINE:
        value = results.get(name)
        text = f"{name}: {'-' if value is None else format(value, '.3f')}"
        if name in intervals:
            low, high = intervals[name]
            text += f" (95 %: {low:.3f} to {high:.3f})"
        lines.append(text)
    lines += [f"not measured: {name}, {why}" for name, why in results["not_measured"].items()]
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def _revisits(results: dict[str, Any]) -> str:
    from loci.bench.world.recall import METRICS

    names = [name for name, value in results["revisit_psnr"].items() if value is not None]
    rows: list[list[str | float | None]] = [
        [f"{kind} {length}, PSNR dB", *(metrics["psnr"][name] for name in names)]
        for kind, lengths in results["by_kind"].items()
        for length, metrics in lengths.items()
    ]
    for metric in METRICS:
        values = results[f"revisit_{metric}"]
        rows.append([f"all, {metric.replace('_', ' ')}", *(values[name] for name in names)])
    return table(["revisit", *names], rows)


def _free(results: dict[str, Any]) -> str:
    rows = [
        [f"{kind} {length}", metrics["self_psnr"]["hpmc"], metrics["self_psnr"]["none"]]
        for kind, lengths in results["self_consistency"].items()
        for length, metrics in lengths.items()
    ]
    return table(["self-consistency, PSNR dB", "hpmc", "none"], rows)
