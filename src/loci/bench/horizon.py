"""`loci bench horizon`: what a chunk costs as a walk grows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.bench.report import ratio, table, write_json
from loci.errors import LociError
from loci.files import check_writable

if TYPE_CHECKING:
    from loci.bench.costs import ChunkCost
    from loci.world.world import World

BASE = 8


def horizon(json: Path, chunks: int = 200, model: str = "doom") -> None:
    """Cost per chunk as a walk grows, beside the published loop on the same weights.

    Args:
        json: where to write the results.
        chunks: how far to walk; measured at 1, 8, 60, 200 and at the end.
        model: a shipped model, a folder or a hub id.
    """
    if chunks < 1:
        raise LociError(f"--chunks: {chunks}, expected at least 1")
    check_writable(json)

    from loci.world.world import World

    results = measure(World.from_pretrained(model), chunks)
    write_json(json, {"model": model, **results})
    print(describe(results))


def measure(world: World, chunks: int) -> dict[str, Any]:
    """All that goes into the JSON, besides the model's name."""
    import torch

    from loci.bench.costs import chunk_costs

    costs = chunk_costs(world, chunks)
    differences = [cost.difference for cost in costs if cost.difference is not None]
    return {
        "chunks": chunks,
        "frames_per_chunk": world.chunk,
        "device": str(next(world.transformer.parameters()).device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": [asdict(cost) for cost in costs],
        **ratios(costs),
        "max_difference": max(differences, default=None),
        "frames_per_second": world.chunk / costs[-1].seconds,
        "notes": notes(world),
    }


def ratios(costs: list[ChunkCost]) -> dict[str, float | None]:
    """The last chunk over the 8th, and the published loop over ours at the 8th."""
    at = {cost.chunk: cost for cost in costs}
    if BASE not in at:
        return dict.fromkeys(_RATIOS)
    base, last = at[BASE], costs[-1]
    values = (
        ratio(last.seconds, base.seconds),
        ratio(last.state_bytes, base.state_bytes),
        ratio(last.published_seconds, base.published_seconds),
        ratio(base.published_seconds, base.seconds),
    )
    return dict(zip(_RATIOS, values, strict=True))


_RATIOS = (
    "seconds_ratio_last_over_8th",
    "state_bytes_ratio_last_over_8th",
    "published_seconds_ratio_last_over_8th",
    "speedup_at_8th",
)


def notes(world: World) -> list[str]:
    """What has to be known to read the figures."""
    said = [
        "seconds: the fastest of three times; ours the median of that over three chunks, the "
        "measured one and the two before it",
        "all frames of a chunk come at once, so the wait for the first is that of the chunk",
        "published: all frames encoded again before the chunk, the memory compressed and its "
        "stream computed in every evaluation",
    ]
    if not world.config.reencode:
        said.append(
            "this world remembers sampled latents: the published loop encodes the frames (timed) "
            "and goes on from the same sampled latents, so that the numbers can be compared"
        )
    if world.memory.published is None:
        from loci.bench.published_loop import MOST_COMPRESSED

        said.append(
            "the published loop is given this world's own memory, built anew from at most the "
            f"newest {MOST_COMPRESSED} latents, which is what the published windows read; "
            "differences are taken while that is the whole history"
        )
    return said


def describe(results: dict[str, Any]) -> str:
    """The table and the ratios."""
    headers = ["chunk", "s", "first frame s", "state kB", "published s", "of it encoding"]
    headers += ["published kB", "faster", "max difference"]
    rows = [
        [
            row["chunk"],
            row["seconds"],
            row["first_frame_seconds"],
            row["state_bytes"] / 1024,
            row["published_seconds"],
            row["published_encoding_seconds"],
            row["published_state_bytes"] / 1024,
            row["published_seconds"] / row["seconds"],
            row["difference"],
        ]
        for row in results["rows"]
    ]
    lines = [table(headers, rows), ""]
    lines += [f"{name}: {results[name]:.3f}" for name in _RATIOS if results[name] is not None]
    lines.append(f"frames per second: {results['frames_per_second']:.1f}")
    lines += [f"({note})" for note in results["notes"]]
    return "\n".join(lines)
