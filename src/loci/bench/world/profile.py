"""`loci bench walk-parts`: where a chunk's time goes, and other ways to compute the same."""

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


AS_IT_IS = "as it is"
BEFORE, WARM = 16, 1
"""Chunks walked before anything is timed, so that there is a memory, and untimed ones after."""


def walk_parts(json: Path, chunks: int = 12, model: str = "doom") -> None:
    """Where the time of a walk goes, and what other ways to compute the same would save.

    Every way walks the same chunks from the same states, one after the other.

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


def measure(world: World, chunks: int, ways: dict[str, Way] | None = None) -> dict[str, Any]:
    """All that goes into the JSON, besides the model's name."""
    import numpy as np
    import torch

    from loci.bench.world.horizon import picture
    from loci.caching.stats import Stats as Stats

    worlds = {name: way(world) for name, way in (ways or WAYS).items()}
    spent: dict[str, list[float]] = {name: [] for name in worlds}
    furthest = dict.fromkeys(worlds, 0.0)
    walked = world.at_speed("exact", ledger := Stats())
    state = walked.start(picture(world), seed=0)
    actions = np.array([(0, 3)] * world.chunk)
    for chunk in range(BEFORE + WARM + chunks):
        if chunk < BEFORE:
            state = walked.step(state, actions)[1]
            continue
        if chunk == BEFORE + WARM:
            ledger.stages.clear()
        videos = {}
        for name, way in worlds.items():
            began = time.perf_counter()
            _, videos[name], _ = way.generate(state, actions)
            if chunk >= BEFORE + WARM:
                spent[name].append(time.perf_counter() - began)
        for name, video in videos.items():
            off = (video - videos[AS_IT_IS]).abs().max().item()
            furthest[name] = max(furthest[name], off)
        state = walked.step(state, actions)[1]
    plain = spent[AS_IT_IS]
    return {
        "chunks": chunks,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parts": {name: entry.seconds / chunks for name, entry in ledger.stages.items()},
        "rows": {
            name: {
                "seconds": statistics.median(seconds),
                "faster": statistics.median(a / b for a, b in zip(plain, seconds, strict=True)),
                "difference": furthest[name],
            }
            for name, seconds in spent.items()
        },
    }


def compiled(world: World) -> World:
    """The velocity compiled by torch."""
    import torch

    other = copy.copy(world)
    other.transformer = copy.copy(world.transformer)
    fast = torch.compile(world.transformer.token_velocity, dynamic=True)
    other.transformer.token_velocity = fast  # pyright: ignore[reportAttributeAccessIssue]
    return other


def halved(world: World) -> World:
    """The transformer in bfloat16: not the same numbers, and here for comparison only."""
    import torch

    other = copy.copy(world)
    other.transformer = copy.deepcopy(world.transformer).to(torch.bfloat16)
    return other


Way = Callable[["World"], "World"]
WAYS: dict[str, Way] = {
    AS_IT_IS: lambda world: world,
    "compiled": compiled,
    "bfloat16": halved,
}


def describe(results: dict[str, Any]) -> str:
    """Both tables."""
    total = sum(results["parts"].values())
    parts = [[name, 1000 * s, s / total] for name, s in results["parts"].items()]
    rows = [
        [name, 1000 * row["seconds"], row["faster"], row["difference"]]
        for name, row in results["rows"].items()
    ]
    return "\n".join(
        [
            table(["part of a chunk", "ms", "share"], parts),
            "",
            table(["way", "ms a chunk", "times as fast", "largest difference"], rows),
        ]
    )
