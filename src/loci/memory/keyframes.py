"""Keyframes: spans of level one that are never merged, chosen to differ as much as possible.

Merged memory tokens keep what was seen, but blur it. A few dozen sharp views are most of a place,
and a chunk needs only those that look where it looks.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from loci.memory.memory_tokens import MemoryTokens, concatenate

TURN = math.radians(40.0)
"""A turn that makes two views differ by 1."""
DISTANCE = 2.0
"""A displacement, in cells, that makes two views differ by 1."""


def select_keyframes(
    keyframes: MemoryTokens | None, candidates: MemoryTokens, count: int
) -> MemoryTokens:
    """At most `count` keyframes, oldest first, from those of before and new candidates.

    Candidates are added one by one, and where there are too many, one of the two most similar is
    dropped: the one nearer to a third, on a tie the newer (generated frames are less reliable than
    what they were generated from). So the result does not depend on how many come at a time.

    Raises:
        ValueError: for candidates without poses.
    """
    if candidates.poses is None:
        raise ValueError("keyframes are chosen by poses: every latent needs one")
    pool = candidates if keyframes is None else concatenate([keyframes, candidates])
    assert pool.poses is not None
    poses = pool.poses.cpu().double()
    chosen = list(range(len(pool.spans) - len(candidates.spans)))
    for new in range(len(chosen), len(pool.spans)):
        chosen.append(new)
        if len(chosen) > count:
            chosen.pop(_most_redundant(view_distances(poses[:, chosen])))
    if keyframes is not None and chosen == list(range(len(keyframes.spans))):
        return keyframes  # no copy: states that hold the same keyframes share them
    return pool.select(chosen)


def nearest_keyframes(
    keyframes: MemoryTokens, poses: Float[Tensor, "b n 3"], count: int
) -> MemoryTokens:
    """The `count` keyframes whose views differ least from any of `poses`, oldest first.

    Args:
        keyframes: keyframes with poses.
        poses: poses of the frames to be generated (heading in radians, x and y in cells).
        count: at most.
    """
    if len(keyframes.spans) <= count:
        return keyframes
    assert keyframes.poses is not None
    known = keyframes.poses.cpu().double()
    distances = pose_distances(known, poses.cpu().double()).amin(dim=2).mean(dim=0)
    return keyframes.select(sorted(distances.argsort(stable=True)[:count].tolist()))


def add_keyframes(keyframes: MemoryTokens, cover: MemoryTokens) -> MemoryTokens:
    """Keyframes and cover together, oldest first; spans that are in both appear once."""
    covered = set(cover.spans)
    chosen = [index for index, span in enumerate(keyframes.spans) if span not in covered]
    both = concatenate([keyframes.select(chosen), cover])
    return both.select(
        sorted(range(len(both.spans)), key=lambda index: (both.spans[index].start, -index))
    )


def view_distances(poses: Float[Tensor, "b n 4"]) -> Float[Tensor, "n n"]:
    """How much views differ from each other, mean over a batch."""
    return pose_distances(poses, poses).mean(dim=0)


def pose_distances(
    poses: Float[Tensor, "b n p"], others: Float[Tensor, "b m p"]
) -> Float[Tensor, "b n m"]:
    """How much views differ: 1 for a turn of `TURN` or a move of `DISTANCE`."""
    turn = poses[:, :, None, 0] - others[:, None, :, 0]
    turn = torch.atan2(turn.sin(), turn.cos()) / TURN
    place = (poses[:, :, None, 1:3] - others[:, None, :, 1:3]) / DISTANCE
    return (turn.square() + place.square().sum(dim=-1)).sqrt()


def _most_redundant(distances: Float[Tensor, "n n"]) -> int:
    distances = distances.clone().fill_diagonal_(math.inf)
    first, second = divmod(int(distances.argmin()), len(distances))
    to_others = distances[[first, second]]
    to_others[:, [first, second]] = math.inf
    nearest = to_others.amin(dim=1)
    return first if nearest[0] < nearest[1] else second
