"""Training batches for a memory: targets that were seen before and are now out of sight.

An example is a local frame, the chunk of frames that follows it, and windows of the history before
it. Histories are given as the hierarchical memory would hold them: some windows as level-one
tokens, some merged once or more often; or the whole history, divided as the hierarchy divides it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.actions import UNCERTAIN
from loci.data.latents import LatentWalks
from loci.memory.hpmc import COMPRESSION
from loci.memory.schedule import MergeConfig, MergeSchedule

WINDOW = 8
SPAN_LATENTS = (WINDOW, 2 * WINDOW, 8 * WINDOW, 32 * WINDOW)
"""Latents in a span of each level; a window holds two level-one tokens."""
NEAR_DISTANCE = 0.5
NEAR_RADIANS = np.radians(20.0)
OUT_OF_SIGHT = np.radians(40.0)


@dataclass(frozen=True)
class HistorySpec:
    """What history the examples of a batch have, and how far apart their target frames lie.

    Attributes:
        spans: how many spans of each level: `spans[0]` windows of 8 latents, two level-one tokens
            each; `spans[l]` spans of 4 ** (l + 1) latents, one token each.
        stride: latents from one target frame to the next.
        targets: target frames.
        budget: instead of some spans the whole history, as a hierarchical memory with this budget
            of tokens holds it.
        lengths: the shortest and longest history with `budget`, in latents; every batch draws one.
    """

    spans: tuple[int, ...] = (6, 0, 0)
    stride: int = 1
    targets: int = 8
    budget: int | None = None
    lengths: tuple[int, int] = (96, 1200)

    @property
    def reach(self) -> int:
        """Latents from the local frame to the last target."""
        return self.stride * self.targets

    @property
    def history(self) -> int:
        """The least latents before a local frame."""
        if self.budget:
            return -(-self.lengths[0] // WINDOW) * WINDOW
        needed = (n * count for n, count in zip(SPAN_LATENTS, self.spans, strict=False))
        return max([1, *needed])

    @property
    def length(self) -> int:
        """The least latents of a walk."""
        return self.history + self.reach + 1


@dataclass(frozen=True)
class WorldBatch:
    """Examples with the same history spec. Poses are dead-reckoned: heading in radians, x, y.

    `spans[l]` and `span_poses[l]` hold the latents of level l+1; `ends[l]` the index of the latent
    after each span; `now` the index of the local frame; `hidden` marks targets that were seen
    before and cannot be seen from the local frame. `actions` are None where targets lie several
    frames apart: no action leads from one to the next, only the poses tell. An action that is
    uncertain is another thing, and stays as it was labelled.
    """

    walks: Int[Tensor, "b"]
    now: Int[Tensor, "b"]
    spans: tuple[Float[Tensor, "b n t c h w"], ...]
    span_poses: tuple[Float[Tensor, "b n t 3"], ...]
    ends: tuple[Int[Tensor, "b n"], ...]
    local: Float[Tensor, "b c h w"]
    local_pose: Float[Tensor, "b 3"]
    target: Float[Tensor, "b k c h w"]
    target_pose: Float[Tensor, "b k 3"]
    target_frames: Int[Tensor, "b k"]
    actions: Int[Tensor, "b k 2"] | None
    hidden: Bool[Tensor, "b k"]


@dataclass(frozen=True)
class _Example:
    """A local frame, which past frames saw each target `[k, n]`, and which targets are hidden."""

    walk: int
    now: int
    seen: np.ndarray
    hidden: np.ndarray


def draw_batch(
    walks: LatentWalks,
    spec: HistorySpec,
    size: int,
    rng: np.random.Generator,
    revisits: float = 0.8,
    moves: float = 0.0,
    within: range | None = None,
) -> WorldBatch:
    """A random batch, with local frames `within` a range of the walks.

    Args:
        walks: to draw from.
        spec: the history and the targets.
        size: examples.
        rng: of all choices.
        revisits: chance that an example is chosen for its hidden targets.
        moves: chance that it is chosen for a move among its targets, every direction as often as
            any other, since most frames of a walk turn or go ahead.
        within: where local frames may be.

    Raises:
        ValueError: where a spec does not fit.
    """
    possible = local_frames(walks.length, spec, within)
    if not possible:
        raise ValueError(f"{spec} does not fit walks of {walks.length} latents within {within}")
    if spec.budget:
        now = int(rng.choice(possible))
        possible = range(now, now + 1)
    examples = []
    for chance in rng.random(size):
        if chance < moves:
            examples.append(_moving(walks, spec, rng, possible))
        else:
            examples.append(_example(walks, spec, rng, chance < moves + revisits, possible))
    spans = [_choose_spans(spec, example, rng) for example in examples]
    return _gather(walks, spec, examples, spans)


def _example(
    walks: LatentWalks,
    spec: HistorySpec,
    rng: np.random.Generator,
    revisit: bool,
    possible: range,
    tries: int = 8,
) -> _Example:
    """The first of a few random local frames that is rich in hidden targets, or the richest."""
    best: _Example | None = None
    for _ in range(tries if revisit else 1):
        walk = int(rng.integers(walks.count))
        now = int(rng.integers(possible.start, possible.stop))
        targets = now + spec.stride * np.arange(1, spec.targets + 1)
        seen, hidden = _revisited(walks.true_poses[walk].numpy(), now, targets)
        if best is None or hidden.sum() > best.hidden.sum():
            best = _Example(walk, now, seen, hidden)
        if best.hidden.mean() > rng.random():
            break
    assert best is not None
    return best


def _moving(
    walks: LatentWalks,
    spec: HistorySpec,
    rng: np.random.Generator,
    possible: range,
    tries: int = 8,
) -> _Example:
    """A local frame of a random walk from where a random move begins, is under way or ends."""
    for _ in range(tries):
        walk = int(rng.integers(walks.count))
        taken = walks.actions[walk, possible.start : possible.stop + spec.targets - 1, 0].numpy()
        found = np.flatnonzero(taken == rng.integers(1, UNCERTAIN))
        if len(found):
            now = possible.start + int(rng.choice(found)) - int(rng.integers(-1, spec.targets))
            now = min(max(now, possible.start), possible.stop - 1)
            targets = now + spec.stride * np.arange(1, spec.targets + 1)
            return _Example(walk, now, *_revisited(walks.true_poses[walk].numpy(), now, targets))
    return _example(walks, spec, rng, False, possible)


def local_frames(length: int, spec: HistorySpec, within: range | None = None) -> range:
    """Where local frames may be in walks of `length` latents: behind them the history that the
    spec needs, before them its targets. Empty where there is no such place."""
    first, last = spec.history, length - spec.reach
    if spec.budget:
        last = min(last, spec.lengths[1])
    if within is not None:
        first, last = max(first, within.start), min(last, within.stop)
    # The hierarchy of a whole history is drawn where windows are complete.
    return range(-(-first // WINDOW) * WINDOW, last, WINDOW) if spec.budget else range(first, last)


def _revisited(poses: np.ndarray, now: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of every other history frame saw each target's view, and which targets are hidden."""
    past, goal, here = poses[:now:2], poses[targets], poses[now]
    dx = goal[:, None, 1] - past[None, :, 1]
    dy = goal[:, None, 2] - past[None, :, 2]
    near = dx * dx + dy * dy < NEAR_DISTANCE**2
    seen = near & (_turn(goal[:, None, 0], past[None, :, 0]) < NEAR_RADIANS)
    hidden = seen.any(axis=1) & (_turn(goal[:, 0], here[0]) > OUT_OF_SIGHT)
    return seen, hidden


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


def _choose_spans(
    spec: HistorySpec, example: _Example, rng: np.random.Generator
) -> tuple[list[int], ...]:
    """Where the spans of each level begin: distinct, aligned, and all before `now`; those that saw
    a hidden target are preferred."""
    now = example.now
    if spec.budget:
        return whole_history(now, spec.budget)
    useful = example.seen[example.hidden].any(axis=0).repeat(2)[:now]
    chosen = []
    for latents, count in zip(SPAN_LATENTS, spec.spans, strict=False):
        complete = now // latents
        score = useful[: complete * latents].reshape(complete, latents).any(axis=1) * 1.0
        score += rng.random(complete) * 1.5
        if complete:
            score[-1] += 0.5
        chosen.append(sorted((np.argsort(-score)[:count] * latents).tolist()))
    return tuple(chosen)


def whole_history(length: int, budget: int) -> tuple[list[int], ...]:
    """Where the spans of each level begin in a hierarchical memory of `length` latents.

    Raises:
        ValueError: when it takes more levels than batches have.
    """
    schedule, _ = MergeSchedule(MergeConfig(WINDOW, budget)).extend(length)
    starts = [[span.start for span in schedule.spans if span.level == 1 + i] for i in range(4)]
    if sum(map(len, starts)) < len(schedule.spans):
        raise ValueError(f"{length} latents in {budget} tokens need levels beyond {len(starts)}")
    starts[0] = starts[0][:: WINDOW // COMPRESSION]
    return tuple(starts)


def _gather(
    walks: LatentWalks,
    spec: HistorySpec,
    examples: list[_Example],
    chosen: list[tuple[list[int], ...]],
) -> WorldBatch:
    walk = torch.tensor([e.walk for e in examples])
    now = torch.tensor([e.now for e in examples])
    frames = now[:, None] + spec.stride * torch.arange(1, spec.targets + 1)
    spans, poses, ends = [], [], []
    for level, latents in enumerate(SPAN_LATENTS[: len(chosen[0])]):
        starts = torch.tensor([spans[level] for spans in chosen], dtype=torch.long)
        starts = starts.view(len(examples), -1)
        index = starts[..., None] + torch.arange(latents)
        row = walk[:, None, None].expand_as(index)
        spans.append(walks.past[row, index].float())
        poses.append(walks.poses[row, index])
        ends.append(starts + latents)
    rows = walk[:, None]
    actions = walks.actions[rows, frames - 1] if spec.stride == 1 else None
    return WorldBatch(
        walks=walk,
        now=now,
        spans=tuple(spans),
        span_poses=tuple(poses),
        ends=tuple(ends),
        local=walks.past[walk, now].float(),
        local_pose=walks.poses[walk, now],
        target=walks.latents[rows, frames].float(),
        target_pose=walks.poses[rows, frames],
        target_frames=frames,
        actions=actions,
        hidden=torch.from_numpy(np.stack([e.hidden for e in examples])),
    )
