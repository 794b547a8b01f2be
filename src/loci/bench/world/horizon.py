"""`loci bench horizon`: seconds and bytes per chunk as a walk grows, beside the published loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from loci.bench.report import ratio, table, write_json
from loci.bench.world.published_loop import (
    MAX_COMPRESSED,
    PublishedChunk,
    WalkHistory,
    WalkRecorder,
    published_chunk,
)
from loci.envs.doom.walks import runs
from loci.errors import LociError
from loci.io.files import check_writable
from loci.world.latent_world import WalkState

if TYPE_CHECKING:
    from loci.world.world import World


MILESTONES = (1, 8, 60, 200)
BASE = 8
"""The chunk that the last one is compared with."""
_MEDIAN_OVER, _REPEATS = 3, 3
# Look round, out, aside and back: the cost does not depend on it.
_SCRIPT = runs([(0, 3, 48), (1, 0, 24), (0, 4, 24), (3, 0, 16), (4, 0, 16), (2, 0, 24)])


def horizon(json: Path, chunks: int = 200, model: str = "doom") -> None:
    """Measure the cost per chunk as a walk grows, beside the published loop with the same weights.

    Args:
        json: where to write the results.
        chunks: length of the walk; measured at 1, 8, 60, 200 and at the end.
        model: a shipped model, a folder or a hub id.
    """
    if chunks < 1:
        raise LociError(f"--chunks: {chunks}, expected at least 1")
    check_writable(json)

    from loci.world.world import World

    results = measure(World.from_pretrained(model), chunks)
    write_json(json, {"model": model, **results})
    print(describe(results))


@dataclass(frozen=True)
class ChunkCost:
    """The cost of one chunk.

    Attributes:
        chunk: its number, from 1.
        seconds: to make it.
        first_frame_seconds: the wait for its first frame; for the first chunk from the picture on.
        state_bytes: of the walk's state after it.
        published_seconds: the same with the published loop.
        published_encoding_seconds: of which encoding the history.
        published_state_bytes: of all frames.
        difference: the largest absolute difference between both results: of latents, or of frames
            in [-1, 1] for a world whose history is encoded from frames. None where the published
            loop compresses another history.
    """

    chunk: int
    seconds: float
    first_frame_seconds: float
    state_bytes: int
    published_seconds: float
    published_encoding_seconds: float
    published_state_bytes: int
    difference: float | None


def chunk_costs(world: World, chunks: int) -> list[ChunkCost]:
    """Walk `chunks` chunks; measure at the milestones and at the end.

    Each chunk is made three times and the fastest counts, since other processes may interfere.
    Ours is the median over the measured chunk and the two before it. One untimed chunk with each
    loop comes first.
    """
    from tqdm import tqdm

    wanted = {n for n in MILESTONES if n < chunks} | {chunks}
    walk = WalkRecorder(world, picture(world))
    first = walk.state
    world.step(first, _actions(world, 1))
    published_chunk(world, first, walk.history(0), _actions(world, 1))
    costs: list[ChunkCost] = []
    recent: list[tuple[WalkState, Int[np.ndarray, "n 2"]]] = []
    for n in tqdm(range(1, chunks + 1), unit=" chunks"):
        recent = [*recent, (walk.state, _actions(world, n))][-_MEDIAN_OVER:]
        walk.step(_actions(world, n))
        if n in wanted:
            costs.append(_cost(world, walk, recent if n > 1 else recent[-1:], n))
    return costs


def state_bytes(state: WalkState) -> int:
    """Bytes of every tensor in the state of a walk."""
    parts = (state.codec_state, state.newest_latent, state.pose, state.memory.tensors, state.prompt)
    return sum(tensor.nbytes for tensor in _tensors(parts))


def _cost(
    world: World,
    walk: WalkRecorder,
    recent: list[tuple[WalkState, Int[np.ndarray, "n 2"]]],
    n: int,
) -> ChunkCost:
    before, after = walk.history(n - 1), walk.history(n)
    state, actions = recent[-1]
    seconds = median(
        min(_timed(lambda at=at: world.step(*at)) for _ in range(_REPEATS)) for at in recent
    )
    start = _timed(lambda: world.start(picture(world))) if n == 1 else 0.0
    published = [published_chunk(world, state, before, actions) for _ in range(_REPEATS)]
    most = world.config.memory.published_limit if world.memory.encode_history else MAX_COMPRESSED
    comparable = before.latents.shape[2] <= most
    return ChunkCost(
        chunk=n,
        seconds=seconds,
        first_frame_seconds=start + seconds,
        state_bytes=state_bytes(walk.state),
        published_seconds=min(chunk.seconds for chunk in published),
        published_encoding_seconds=min(chunk.encoding for chunk in published),
        published_state_bytes=after.frames.nbytes,
        difference=_difference(world, after, published[0]) if comparable else None,
    )


def _difference(world: World, history: WalkHistory, published: PublishedChunk) -> float:
    if world.config.reencode:
        frames = history.frames[-len(published.frames) :].astype(int)
        return float(np.abs(frames - published.frames).max() / 127.5)
    latents = history.latents[:, :, -published.latents.shape[2] :]
    return (latents - published.latents).abs().max().item()


def _actions(world: World, chunk: int) -> Int[np.ndarray, "n 2"]:
    return _SCRIPT[(chunk * world.chunk_frames + np.arange(world.chunk_frames)) % len(_SCRIPT)]


def picture(world: World) -> UInt8[np.ndarray, "h w 3"]:
    """A plain gradient in the size of the world's frames: costs do not depend on the content."""
    height, width = world.size or (448, 896)
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [255 * rows / height, 255 * columns / width, 127 + 0 * rows]
    return np.stack(channels, axis=2).astype(np.uint8)


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def measure(world: World, chunks: int) -> dict[str, Any]:
    """All results, without the model's name."""
    costs = chunk_costs(world, chunks)
    differences = [cost.difference for cost in costs if cost.difference is not None]
    return {
        "chunks": chunks,
        "frames_per_chunk": world.chunk_frames,
        "device": str(world.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": [asdict(cost) for cost in costs],
        **ratios(costs),
        "max_difference": max(differences, default=None),
        "frames_per_second": world.chunk_frames / costs[-1].seconds,
        "notes": notes(world),
    }


_RATIOS = (
    "seconds_ratio_last_over_8th",
    "state_bytes_ratio_last_over_8th",
    "published_seconds_ratio_last_over_8th",
    "speedup_at_8th",
)


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


def notes(world: World) -> list[str]:
    """How the figures were measured."""
    lines = [
        "seconds: the fastest of three runs; ours is the median over three chunks, the measured "
        "one and the two before it",
        "all frames of a chunk come at once, so the wait for the first is that of the chunk",
        "published: encodes all frames before the chunk, and compresses the memory in every "
        "evaluation",
    ]
    if not world.config.reencode:
        lines.append(
            "this world keeps sampled latents as its history: the published loop encodes the "
            "frames (timed) and continues from the same sampled latents, for comparison"
        )
    if world.memory.encode_history is None:
        lines.append(
            "the published loop has this world's memory, built from at most the newest "
            f"{MAX_COMPRESSED} latents, as many as the published windows read; differences are "
            "taken while that is the whole history"
        )
    return lines


def describe(results: dict[str, Any]) -> str:
    """The table and the ratios as text."""
    headers = ["chunk", "s", "first frame s", "state kB", "published s", "encoding s"]
    headers += ["published kB", "speed-up", "max difference"]
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
