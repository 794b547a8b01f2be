"""Does the picture move the way the keys say? Measured frame by frame."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from loci.bench.metrics import growth, shift_right
from loci.bench.world.recall import fitted, walk_on
from loci.envs.doom.engine import BACK, FORWARD, LEFT, RIGHT, STRAFE_LEFT, STRAFE_RIGHT, film
from loci.envs.doom.walks import runs
from loci.world.world import World

# Starts lie 150 map units or more from any wall: eight steps of 12 go free in any direction.
SCRIPT = runs(
    [
        *((0, LEFT, 12), (FORWARD, 0, 8), (BACK, 0, 16), (FORWARD, 0, 8)),
        *((0, RIGHT, 24), (STRAFE_LEFT, 0, 8), (STRAFE_RIGHT, 0, 16), (STRAFE_LEFT, 0, 8)),
    ]
)
# What is measured, and the sign it has.
_SIGNS = {
    "turn left": ((0, LEFT), shift_right, 1),
    "turn right": ((0, RIGHT), shift_right, -1),
    "forward": ((FORWARD, 0), growth, 1),
    "back": ((BACK, 0), growth, -1),
    "left": ((STRAFE_LEFT, 0), shift_right, 1),
    "right": ((STRAFE_RIGHT, 0), shift_right, -1),
}
Obeyed = dict[str, Bool[np.ndarray, "k"]]
_MOVED = 1.0  # map units or degrees, of the 12 or 7.5 of a step: less is a wall in the way


def obeyed(
    frames: UInt8[np.ndarray, "n+1 h w 3"],
    actions: Int[np.ndarray, "n 2"],
    counted: Bool[np.ndarray, "n"],
) -> Obeyed:
    """For every kind of action, in which of its counted frames the motion has the right sign."""
    result = {}
    for name, (action, measure, sign) in _SIGNS.items():
        at = np.flatnonzero((actions == action).all(axis=1) & counted)
        if len(at):
            result[name] = np.sign(measure(frames[at], frames[at + 1])) == sign
    return result


def action_accuracy(world: World, maps: Sequence[int], seed: int) -> dict[str, object]:
    """Shares of generated frames, and of the engine's own, that move as commanded.

    The engine's frames tell how far the measurement itself can be trusted. Frames in which the
    engine's walker was held up by something count in neither.
    """
    made, true = [], []
    for map_seed in maps:
        frames, poses = film(map_seed, SCRIPT)
        counted = moved(poses)
        size = world.size or frames.shape[1:3]
        frames = fitted(frames, (size[0], size[1]))
        generated, _ = walk_on(world, world.start(frames[0], seed), SCRIPT)
        generated = np.concatenate([frames[:1], generated])
        made.append(obeyed(generated, SCRIPT, counted))
        true.append(obeyed(frames, SCRIPT, counted))
    return {
        "action_accuracy": accuracy(made),
        "action_accuracy_true": accuracy(true),
        "action_accuracy_by_action": {name: accuracy(made, (name,)) for name in _SIGNS},
    }


def accuracy(walks: Sequence[Obeyed], names: Iterable[str] = tuple(_SIGNS)) -> float | None:
    """The share of right frames in what `obeyed` says of some walks; None where none counts."""
    parts = [walk[name] for name in names for walk in walks if name in walk]
    return float(np.concatenate(parts).mean()) if parts else None


def moved(poses: Float[np.ndarray, "n+1 3"]) -> Bool[np.ndarray, "n"]:
    """Between which of the engine's poses something changed."""
    change = np.abs(np.diff(poses, axis=0))
    change[:, 2] = np.minimum(change[:, 2], 360 - change[:, 2])
    return change.max(axis=1) > _MOVED
