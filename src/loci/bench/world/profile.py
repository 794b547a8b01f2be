"""`loci bench walk-parts`: where the time of a chunk goes, and other ways to compute it."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.report import table, write_json
from loci.errors import LociError
from loci.io.files import check_writable

if TYPE_CHECKING:
    from loci.world.world import World


BASELINE = "baseline"
FILL, WARM_UP = 16, 1
"""Chunks walked first, so that there is a memory, and untimed chunks after them."""


def walk_parts(json: Path, chunks: int = 12, model: str = "doom") -> None:
    """Profile a walk, and time it compiled and in bfloat16.

    Every variant computes the same chunks from the same states, one after the other.

    Args:
        json: where to write the results.
        chunks: how many are timed.
        model: a shipped model, a folder or a hub id.
    """
    if chunks < 1:
        raise LociError(f"--chunks: {chunks}, expected at least 1")
    check_writable(json)

    from loci.world.world import World

    results = measure(World.from_pretrained(model), chunks)
    write_json(json, {"model": model, **results})
    print(describe(results))


def measure(
    world: World, chunks: int, variants: dict[str, Variant] | None = None
) -> dict[str, Any]:
    """All results, without the model's name."""
    import numpy as np
    import torch

    from loci.acceleration.stats import Stats
    from loci.bench.world.horizon import picture

    worlds = {name: variant(world) for name, variant in (variants or VARIANTS).items()}
    seconds: dict[str, list[float]] = {name: [] for name in worlds}
    differences = dict.fromkeys(worlds, 0.0)
    walked = world.at_speed("exact", stats := Stats())
    state = walked.start(picture(world), seed=0)
    actions = np.array([(0, 3)] * world.chunk_frames)
    for chunk in range(FILL + WARM_UP + chunks):
        if chunk < FILL:
            state = walked.step(state, actions)[1]
            continue
        if chunk == FILL + WARM_UP:
            stats.stages.clear()
        videos = {}
        for name, other in worlds.items():
            began = time.perf_counter()
            generated = other.generate_chunk(state, actions)
            videos[name], _ = (
                generated.video(),
                generated.state_after(),
            )  # the history takes time too
            if chunk >= FILL + WARM_UP:
                seconds[name].append(time.perf_counter() - began)
        for name, video in videos.items():
            difference = (video - videos[BASELINE]).abs().max().item()
            differences[name] = max(difference, differences[name])
        state = walked.step(state, actions)[1]
    baseline = seconds[BASELINE]
    return {
        "chunks": chunks,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "stages": {name: stage.seconds / chunks for name, stage in stats.stages.items()},
        "rows": {
            name: {
                "seconds": statistics.median(times),
                "speedup": statistics.median(a / b for a, b in zip(baseline, times, strict=True)),
                "difference": differences[name],
            }
            for name, times in seconds.items()
        },
    }


def compiled(world: World) -> World:
    """With the velocity compiled by torch."""
    import torch

    other = copy.copy(world)
    other.transformer = copy.copy(world.transformer)
    fast = torch.compile(world.transformer.token_velocity, dynamic=True)
    other.transformer.token_velocity = fast  # pyright: ignore[reportAttributeAccessIssue]
    return other


def in_bfloat16(world: World) -> World:
    """With the transformer in bfloat16: other numbers, for comparison only."""
    import torch

    other = copy.copy(world)
    other.transformer = copy.deepcopy(world.transformer).to(torch.bfloat16)
    return other


Variant = Callable[["World"], "World"]
VARIANTS: dict[str, Variant] = {
    BASELINE: lambda world: world,
    "compiled": compiled,
    "bfloat16": in_bfloat16,
}


def describe(results: dict[str, Any]) -> str:
    """Both tables as text."""
    total = sum(results["stages"].values())
    stages = [[name, 1000 * s, s / total] for name, s in results["stages"].items()]
    rows = [
        [name, 1000 * row["seconds"], row["speedup"], row["difference"]]
        for name, row in results["rows"].items()
    ]
    return "\n".join(
        [
            table(["stage of a chunk", "ms", "share"], stages),
            "",
            table(["variant", "ms a chunk", "speed-up", "largest difference"], rows),
        ]
    )
