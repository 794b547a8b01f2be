"""Lists of actions with known returns, for measuring what a memory is worth.

All are int64 `[frames, 2]` of move and view ids, as `doom.film` takes them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from loci.data.doom_maps import make_map
from loci.data.doom_steps import LEFT, OPPOSITE, Pose, Run, other_way, stepped
from loci.data.walks import Wanderer


def runs(parts: Sequence[Run]) -> Int[np.ndarray, "n 2"]:
    """Actions from runs of (move, view, frames)."""
    rows = [(move, view) for move, view, frames in parts for _ in range(frames)]
    return np.array(rows, np.int64).reshape(-1, 2)


def spin(frames: int, view: int = LEFT) -> Int[np.ndarray, "n 2"]:
    """Turn on the spot; every 48 frames the view is the same again."""
    return runs([(0, view, frames)])


def there_and_back(map_seed: int, frames: int, seed: int = 0) -> Int[np.ndarray, "n 2"]:
    """A walk through the rooms of a map, and the same backwards.

    The pose after n frames is the pose after `frames - n` frames, for even `frames` and a walk from
    the map's own start: every view of the way back was seen on the way out. (An odd last frame
    stands still.)
    """
    world = make_map(map_seed)
    wanderer = Wanderer(world, "wander", seed)
    pose: Pose = world.start
    out: list[tuple[int, int]] = []
    while len(out) < frames // 2:
        move, view = wanderer.action()
        # A step that also turns is no other step's reverse: take its two halves one by one.
        for action in [(0, view), (move, 0)] if move and view else [(move, view)]:
            out.append(action)
            wanderer.pose = pose = stepped(pose, *action)
    out = out[: frames // 2]
    back = [(OPPOSITE[move], other_way(view) if view else 0) for move, view in reversed(out)]
    return np.array(out + back + [(0, 0)] * (frames % 2), np.int64).reshape(-1, 2)
