"""Seconds and bytes of a walk's chunks as it grows, beside the published loop's."""

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
from tqdm import tqdm

from loci.bench.report import ratio, table, write_json
from loci.bench.world.published_loop import (
    MOST_COMPRESSED,
    History,
    PublishedChunk,
    published_chunk,
)
from loci.bench.world.variants import with_memory
from loci.envs.doom.walks import runs
from loci.errors import LociError
from loci.io.files import check_writable
from loci.memory.baselines import Memory
from loci.world.world import WalkState, World

if TYPE_CHECKING:
    from loci.world.world import World


MILESTONES = (1, 8, 60, 200)
_AROUND, _REPEATS = 3, 3
# Look round, go out, step aside, come back: the costs do not depend on it.
_SCRIPT = runs([(0, 3, 48), (1, 0, 24), (0, 4, 24), (3, 0, 16), (4, 0, 16), (2, 0, 24)])


@dataclass(frozen=True)
class ChunkCost:
    """One chunk of a walk.

    `first_frame_seconds` is how long one waits for the chunk's first frame: for the first chunk
    from the picture on, else from the actions on. All frames of a chunk come at once.
    `difference` is the largest absolute difference between our latents and the published loop's
    (between the frames, in [-1, 1], for a world that remembers what the codec sees in them), None
    where that loop does not compress the same history.
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
    """Walk `chunks` chunks and measure the milestones on the way, and the last.

    Each chunk is made three times, of which the fastest counts, as other processes may disturb
    (a step leaves its state as it was). Ours is the median over the milestone and the two chunks
    before it; the published loop makes the milestone. Before all this a chunk is made by either
    for nothing: the first call of anything is slow.
    """
    wanted = {n for n in MILESTONES if n < chunks} | {chunks}
    walk = _Walk(world)
    first = walk.state
    world.step(first, _actions(world, 1))
    published_chunk(world, first, walk.history(0), _actions(world, 1))
    costs: list[ChunkCost] = []
    recent: list[tuple[WalkState, Int[np.ndarray, "n 2"]]] = []
    for n in tqdm(range(1, chunks + 1), unit=" chunks"):
        recent = [*recent, (walk.state, _actions(world, n))][-_AROUND:]
        walk.step(_actions(world, n))
        if n in wanted:
            costs.append(_cost(world, walk, recent if n > 1 else recent[-1:], n))
    return costs


def state_bytes(state: WalkState) -> int:
    """Bytes of every tensor that a walk has to keep."""
    parts = (state.codec, state.local, state.pose, state.memory.tensors, state.prompt)
    return sum(tensor.nbytes for tensor in _tensors(parts))


class _Walk:
    """A walk with everything it has made, which a world itself does not keep."""

    def __init__(self, world: World) -> None:
        self._recorder = _Recorder(world.memory)
        self._world = with_memory(world, self._recorder)
        self.state = self._world.start(picture(world))
        self._frames, self._latents = [picture(world)[None]], [self.state.local]
        self._poses = [self.state.pose[:, None]]

    def step(self, actions: Int[np.ndarray, "n 2"]) -> None:
        frames, self.state = self._world.step(self.state, actions)
        latents, poses = self._recorder.last
        if self._world.config.lag:
            # The memory was given the frame before and all but the newest.
            latents = torch.cat([latents[:, :, 1:], self.state.local], dim=2)
            if poses is not None:
                poses = torch.cat([poses[:, 1:], self.state.pose[:, None]], dim=1)
        self._frames.append(frames)
        self._latents.append(latents)
        if poses is not None:
            self._poses.append(poses)

    def history(self, chunks: int) -> History:
        """What there was after so many chunks."""
        frames, latents = self._frames[: chunks + 1], self._latents[: chunks + 1]
        posed = self._world.config.stride is not None
        poses = torch.cat(self._poses[: chunks + 1], dim=1) if posed else None
        return History(np.concatenate(frames), torch.cat(latents, dim=2), poses)


class _Recorder:
    """A memory that remembers what it was last given."""

    def __init__(self, inner: Memory) -> None:
        self.inner, self.empty, self.codes = inner, inner.empty, inner.codes
        self.last: tuple[Tensor, Tensor | None]

    def append(self, state: Any, latents: Tensor, poses: Tensor | None = None) -> Any:
        self.last = latents, poses
        return self.inner.append(state, latents, poses)


def _cost(
    world: World, walk: _Walk, around: list[tuple[WalkState, Int[np.ndarray, "n 2"]]], n: int
) -> ChunkCost:
    before, after = walk.history(n - 1), walk.history(n)
    state, actions = around[-1]
    ours = median(
        min(_timed(lambda at=at: world.step(*at)) for _ in range(_REPEATS)) for at in around
    )
    start = _timed(lambda: world.start(picture(world))) if n == 1 else 0.0
    theirs = [published_chunk(world, state, before, actions) for _ in range(_REPEATS)]
    most = world.config.horizon.exact_limit if world.memory.published else MOST_COMPRESSED
    same = before.latents.shape[2] <= most
    return ChunkCost(
        chunk=n,
        seconds=ours,
        first_frame_seconds=start + ours,
        state_bytes=state_bytes(walk.state),
        published_seconds=min(chunk.seconds for chunk in theirs),
        published_encoding_seconds=min(chunk.encoding for chunk in theirs),
        published_state_bytes=after.frames.nbytes,
        difference=_difference(world, after, theirs[0]) if same else None,
    )


def _difference(world: World, after: History, theirs: PublishedChunk) -> float:
    if world.config.reencode:
        own = after.frames[-len(theirs.frames) :].astype(int)
        return float(np.abs(own - theirs.frames).max() / 127.5)
    own = after.latents[:, :, -theirs.latents.shape[2] :]
    return (own - theirs.latents).abs().max().item()


def _actions(world: World, chunk: int) -> Int[np.ndarray, "n 2"]:
    return _SCRIPT[(chunk * world.chunk + np.arange(world.chunk)) % len(_SCRIPT)]


def picture(world: World) -> UInt8[np.ndarray, "h w 3"]:
    """A plain gradient of the world's size: costs do not depend on what is seen."""
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
        from loci.bench.world.published_loop import MOST_COMPRESSED

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
