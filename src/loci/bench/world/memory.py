"""`loci bench memory`: does the world remember, last, and obey?"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.report import QUICK, MemoryPlan, table, write_json
from loci.io.files import check_writable

if TYPE_CHECKING:
    from loci.bench.world.recall import Tally
    from loci.world.world import World


FREE = ("hpmc", "none")


def memory(
    json: Path,
    quick: bool = False,
    seed: int = 0,
    model: str = "doom",
    time_model: str | None = None,
    lengths: tuple[int, ...] | None = None,
    maps: int | None = None,
) -> None:
    """Does it remember? Revisits, drift and control on held-out Doom maps.

    Args:
        json: where to write the results.
        quick: shorter walks through fewer maps; minutes on two cores, where all takes half an hour.
        seed: of the maps, the walks and the noise.
        model: a shipped model, a folder or a hub id.
        time_model: the same for its rival, addressed by time as published.
        lengths: actions of the trials, in place of those of the quick or the full measure.
        maps: how many held-out maps, likewise.
    """
    check_writable(json)
    plan = QUICK if quick else MemoryPlan()
    plan = replace(
        plan,
        lengths=plan.lengths if lengths is None else lengths,
        maps=plan.maps if maps is None else maps,
    )

    from loci.world.world import World

    world = World.from_pretrained(model)
    rival = None if time_model is None else World.from_pretrained(time_model)
    results = measure(world, rival, plan, seed)
    write_json(json, {"model": model, "time_model": time_model, "quick": quick, **results})
    print(describe(results))


def measure(world: World, rival: World | None, plan: MemoryPlan, seed: int) -> dict[str, Any]:
    """All that goes into the JSON, besides the names of the models."""
    from loci.bench.metrics import Features
    from loci.bench.world.control import action_accuracy
    from loci.bench.world.drift import drift, standing_still
    from loci.bench.world.recall import MEASURES, VARIANTS, breakdown, held_out_maps

    began, features = time.perf_counter(), Features()
    maps = held_out_maps(2 * plan.maps, seed)
    maps, others = maps[: plan.maps], maps[plan.maps :]
    tally = _trials(world, rival, plan, list(zip(maps, others, strict=True)), seed, features)
    return {
        "seed": seed,
        "maps": maps,
        "lengths": list(plan.lengths),
        "feature_network": features.name,
        **{f"revisit_{measure}": tally.means(measure, VARIANTS) for measure in MEASURES},
        "by_kind": breakdown(tally, VARIANTS, MEASURES),
        "self_consistency": breakdown(tally, FREE, ("self_psnr",)),
        "not_measured": _reasons(world, rival),
        "drift_frames": {"early": plan.drift.early, "late": plan.drift.late},
        **drift(world, plan.drift, maps, others, features, seed),
        "standing_still_frames": plan.drift.still,
        "standing_still_psnr": standing_still(world, plan.drift, maps, seed),
        **action_accuracy(world, maps, seed),
        "seconds": time.perf_counter() - began,
        "notes": list(_NOTES),
    }


_NOTES = (
    "revisit: the way out is the engine's, the way back is generated; views more than 40 degrees "
    "away from where the last true frame looks, against the engine's own",
    "self_consistency: all is generated, on the first map; the way back against the way out",
    "length: actions of a trial; a walk spends half of them on the way back, a spin its last 48",
)


def _trials(
    world: World,
    rival: World | None,
    plan: MemoryPlan,
    maps: list[tuple[int, int]],
    seed: int,
    features: Any,
) -> Tally:
    """Every trial on every map; `maps` are pairs of a map and one to remember wrongly."""
    from tqdm import tqdm

    from loci.bench.world.recall import KINDS, Kind, Tally, make_trial, recall, self_consistency
    from loci.bench.world.variants import variants
    from loci.envs.doom.engine import FRAME

    tally = Tally()
    free = {name: w for name, w in variants(world).items() if name in FREE}
    wanted: list[tuple[Kind, int, int]]
    wanted = [(kind, n, k) for n in plan.lengths for kind in KINDS for k in range(len(maps))]
    for kind, length, k in tqdm(wanted, unit=" trials"):
        trial = make_trial(kind, length, *maps[k], world.size or (FRAME, FRAME))
        recall(tally, world, rival, trial, features, seed)
        if k == 0:
            self_consistency(tally, free, trial, seed)
    return tally


def _reasons(world: World, rival: World | None) -> dict[str, str]:
    from loci.bench.world.variants import (
        AGE_REASON,
        KEEPSAKES_REASON,
        RAW_REASON,
        TIME_REASON,
        may_keep,
        takes_raw_latents,
    )

    reasons = {} if takes_raw_latents(world) else {"raw": RAW_REASON}
    if world.config.horizon.hierarchy.follow == "age":
        reasons["age"] = AGE_REASON
    if not may_keep(world):
        reasons["keepsakes"] = KEEPSAKES_REASON
    return reasons if rival is not None else {**reasons, "time": TIME_REASON}


def describe(results: dict[str, Any]) -> str:
    """The tables and the figures."""
    lines = [_revisits(results), "", _free(results), ""]
    for name in (
        *("drift_ratio", "drift_ratio_true", "standing_still_psnr"),
        *("action_accuracy", "action_accuracy_true", "frames_per_second"),
    ):
        value = results[name]
        lines.append(f"{name}: {'-' if value is None else format(value, '.3f')}")
    lines += [f"no {name}: {reason}" for name, reason in results["not_measured"].items()]
    return "\n".join([*lines, *(f"({note})" for note in results["notes"])])


def _revisits(results: dict[str, Any]) -> str:
    names = list(results["revisit_psnr"])
    rows: list[list[Any]] = []
    for kind, lengths in results["by_kind"].items():
        for length, measures in lengths.items():
            values = measures["psnr"]
            rows.append([f"{kind} {length}, PSNR dB", *(values[name] for name in names)])
    for measure in ("psnr", "ssim", "feature_distance"):
        values = results[f"revisit_{measure}"]
        rows.append([f"all, {measure.replace('_', ' ')}", *(values[name] for name in names)])
    return table(["revisit", *names], rows)


def _free(results: dict[str, Any]) -> str:
    rows = [
        [f"{kind} {length}", measures["self_psnr"]["hpmc"], measures["self_psnr"]["none"]]
        for kind, lengths in results["self_consistency"].items()
        for length, measures in lengths.items()
    ]
    return table(["self-consistency, PSNR dB", "hpmc", "none"], rows)
