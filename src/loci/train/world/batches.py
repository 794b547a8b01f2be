"""Training examples for a memory: targets that were seen before and are out of sight.

An example is a local frame, the chunk of frames that follows it, and windows of the history
before it. Histories are given as the hierarchy would hold them: some windows as level-one codes,
some merged once or more often; or all of the past, divided as the hierarchy divides it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.actions import UNCERTAIN
from loci.data.recordings import LatentWalks
from loci.memory.hpmc import RATE
from loci.memory.schedule import HierarchyConfig, MergeSchedule

WINDOW = 8
NEAR_CELLS = 0.5
NEAR_RADIANS = np.radians(20.0)
OUT_OF_SIGHT = np.radians(40.0)


@dataclass(frozen=True)
class Recipe:
    """What a batch holds: aligned spans per level, and how far apart its target frames lie.

    `spans[0]` windows of 8 latents are taken, two codes of level one each; `spans[l]` spans of
    4 ** (l + 1) latents, one code each. Or `whole`: instead of some spans all of them, as they
    stand in a hierarchy with this budget of codes when `lengths` latents have been seen (every
    batch draws its length).
    """

    spans: tuple[int, ...] = (6, 0, 0)
    stride: int = 1
    targets: int = 8
    whole: int | None = None
    lengths: range = range(96, 1200)

    @property
    def reach(self) -> int:
        return self.stride * self.targets


SPAN_LATENTS = (WINDOW, 2 * WINDOW, 8 * WINDOW, 32 * WINDOW)


@dataclass(frozen=True)
class Batch:
    """Examples of one recipe. Poses are reckoned, in radians and cells.

    `spans[l]` and `span_poses[l]` hold the latents of level l+1; `ends[l]` the index of the latent
    after each span; `now` the index of the local frame; `hidden` marks targets that were seen
    before and cannot be seen from the local frame.
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
    actions: Int[Tensor, "b k 2"]
    hidden: Bool[Tensor, "b k"]


@dataclass(frozen=True)
class _Example:
    walk: int
    now: int
    seen: np.ndarray
    hidden: np.ndarray


def draw(
    walks: LatentWalks,
    recipe: Recipe,
    size: int,
    rng: np.random.Generator,
    revisits: float = 0.8,
    moves: float = 0.0,
    within: range | None = None,
) -> Batch:
    """A random batch, with local frames `within` a range of the walks.

    With probability `revisits` an example is chosen for its hidden targets; with probability
    `moves` for a move among its targets, every direction as often as any other, since most frames
    of a walk turn or go ahead. Raises ValueError where a recipe does not fit.
    """
    room = places(walks, recipe, within)
    if not room:
        raise ValueError(f"{recipe} does not fit walks of {walks.length} latents within {within}")
    if recipe.whole:
        now = int(rng.choice(room))
        room = range(now, now + 1)
    examples = []
    for chance in rng.random(size):
        if chance < moves:
            examples.append(_moving(walks, recipe, rng, room))
        else:
            examples.append(_example(walks, recipe, rng, chance < moves + revisits, room))
    spans = [_choose_spans(recipe, example, rng) for example in examples]
    return _gather(walks, recipe, examples, spans)


def _example(
    walks: LatentWalks,
    recipe: Recipe,
    rng: np.random.Generator,
    revisit: bool,
    room: range,
    tries: int = 8,
) -> _Example:
    """The first of a few random places to be found rich in hidden targets, or the richest."""
    best: _Example | None = None
    for _ in range(tries if revisit else 1):
        walk = int(rng.integers(walks.count))
        now = int(rng.integers(room.start, room.stop))
        targets = now + recipe.stride * np.arange(1, recipe.targets + 1)
        seen, hidden = _revisited(walks.true[walk].numpy(), now, targets)
        if best is None or hidden.sum() > best.hidden.sum():
            best = _Example(walk, now, seen, hidden)
        if best.hidden.mean() > rng.random():
            break
    assert best is not None
    return best


def _moving(
    walks: LatentWalks, recipe: Recipe, rng: np.random.Generator, room: range, tries: int = 8
) -> _Example:
    """A place of a random walk where a random move begins, is under way or ends."""
    for _ in range(tries):
        walk = int(rng.integers(walks.count))
        taken = walks.actions[walk, room.start : room.stop + recipe.targets - 1, 0].numpy()
        found = np.flatnonzero(taken == rng.integers(1, UNCERTAIN))
        if len(found):
            now = room.start + int(rng.choice(found)) - int(rng.integers(-1, recipe.targets))
            now = min(max(now, room.start), room.stop - 1)
            targets = now + recipe.stride * np.arange(1, recipe.targets + 1)
            return _Example(walk, now, *_revisited(walks.true[walk].numpy(), now, targets))
    return _example(walks, recipe, rng, False, room)


def places(walks: LatentWalks, recipe: Recipe, within: range | None = None) -> range:
    """Where local frames may be: behind them the history a recipe needs, before them its targets.

    Empty where there is no such place.
    """
    first, last = 1, walks.length - recipe.reach
    if recipe.whole:
        first, last = recipe.lengths.start, min(last, recipe.lengths.stop)
    for latents, count in zip(SPAN_LATENTS, recipe.spans, strict=False):
        if not recipe.whole:
            first = max(first, latents * count)
    if within is not None:
        first, last = max(first, within.start), min(last, within.stop)
    # The hierarchy of a whole past is drawn where windows are complete.
    return range(-(-first // WINDOW) * WINDOW, last, WINDOW) if recipe.whole else range(first, last)


def _revisited(poses: np.ndarray, now: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of every other history frame saw each target's view, and which targets are hidden."""
    past, goal, here = poses[:now:2], poses[targets], poses[now]
    dx = goal[:, None, 1] - past[None, :, 1]
    dy = goal[:, None, 2] - past[None, :, 2]
    near = dx * dx + dy * dy < NEAR_CELLS**2
    seen = near & (_turn(goal[:, None, 0], past[None, :, 0]) < NEAR_RADIANS)
    hidden = seen.any(axis=1) & (_turn(goal[:, 0], here[0]) > OUT_OF_SIGHT)
    return seen, hidden


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


def _choose_spans(
    recipe: Recipe, example: _Example, rng: np.random.Generator
) -> tuple[list[int], ...]:
    """Where the spans of each level begin: distinct, aligned, and all before `now`."""
    now = example.now
    if recipe.whole:
        return _whole_past(now, recipe.whole)
    useful = example.seen[example.hidden].any(axis=0).repeat(2)[:now]
    chosen = []
    for latents, count in zip(SPAN_LATENTS, recipe.spans, strict=False):
        complete = now // latents
        score = useful[: complete * latents].reshape(complete, latents).any(axis=1) * 1.0
        score += rng.random(complete) * 1.5
        if complete:
            score[-1] += 0.5
        chosen.append(sorted((np.argsort(-score)[:count] * latents).tolist()))
    return tuple(chosen)


def _whole_past(length: int, budget: int) -> tuple[list[int], ...]:
    plan, _ = MergeSchedule(HierarchyConfig(WINDOW, budget)).extend(length)
    starts = [[span.start for span in plan.spans if span.level == 1 + i] for i in range(4)]
    if sum(map(len, starts)) < len(plan.spans):
        raise ValueError(f"{length} latents in {budget} codes need levels beyond {len(starts)}")
    starts[0] = starts[0][:: WINDOW // RATE]
    return tuple(starts)


def _gather(
    walks: LatentWalks,
    recipe: Recipe,
    examples: list[_Example],
    chosen: list[tuple[list[int], ...]],
) -> Batch:
    walk = torch.tensor([e.walk for e in examples])
    now = torch.tensor([e.now for e in examples])
    frames = now[:, None] + recipe.stride * torch.arange(1, recipe.targets + 1)
    spans, poses, ends = [], [], []
    for level, latents in enumerate(SPAN_LATENTS[: len(chosen[0])]):
        starts = torch.tensor([spans[level] for spans in chosen], dtype=torch.long)
        starts = starts.view(len(examples), -1)
        index = starts[..., None] + torch.arange(latents)
        row = walk[:, None, None].expand_as(index)
        spans.append(walks.past[row, index].float())
        poses.append(walks.reckoned[row, index])
        ends.append(starts + latents)
    rows = walk[:, None]
    actions = walks.actions[rows, frames - 1]
    if recipe.stride > 1:
        actions = torch.full_like(actions, UNCERTAIN)
    return Batch(
        walks=walk,
        now=now,
        spans=tuple(spans),
        span_poses=tuple(poses),
        ends=tuple(ends),
        local=walks.past[walk, now].float(),
        local_pose=walks.reckoned[walk, now],
        target=walks.latents[rows, frames].float(),
        target_pose=walks.reckoned[rows, frames],
        target_frames=frames,
        actions=actions,
        hidden=torch.from_numpy(np.stack([e.hidden for e in examples])),
    )
