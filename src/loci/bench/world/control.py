"""Action accuracy: does the picture move as the keys say? Measured frame by frame."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from loci.bench.metrics import expansion, shift_right
from loci.bench.world.trials import film_for, rollout
from loci.envs.doom.engine import BACK, FORWARD, LEFT, RIGHT, STRAFE_LEFT, STRAFE_RIGHT
from loci.envs.doom.walks import runs
from loci.world.world import World

# Maps start 150 map units or more from any wall: eight steps of 12 are free in any direction.
SCRIPT = runs(
    [
        *((0, LEFT, 12), (FORWARD, 0, 8), (BACK, 0, 16), (FORWARD, 0, 8)),
        *((0, RIGHT, 24), (STRAFE_LEFT, 0, 8), (STRAFE_RIGHT, 0, 16), (STRAFE_LEFT, 0, 8)),
    ]
)
MOTIONS = {
    "turn left": ((0, LEFT), shift_right, 1),
    "turn right": ((0, RIGHT), shift_right, -1),
    "forward": ((FORWARD, 0), expansion, 1),
    "back": ((BACK, 0), expansion, -1),
    "left": ((STRAFE_LEFT, 0), shift_right, 1),
    "right": ((STRAFE_RIGHT, 0), shift_right, -1),
}
"""For each kind of action, the motion that is measured and its sign."""
MOVES, SPAN = ("forward", "back", "left", "right"), 4
"""Kinds that are also measured over several frames, and how many; turns would leave the picture."""
Correct = dict[str, Bool[np.ndarray, "k"]]
_MOVED = 1.0  # map units or degrees, of the 12 or 7.5 of a step: less means that a wall was hit


def correct_motion(
    frames: UInt8[np.ndarray, "n+1 h w 3"],
    actions: Int[np.ndarray, "n 2"],
    counted: Bool[np.ndarray, "n"],
    span: int = 1,
) -> Correct:
    """For every kind of action, whether the motion has the right sign in its counted frames.

    Args:
        frames: of a walk.
        actions: ids (move, view) that lead from one to the next.
        counted: which actions count.
        span: actions of the kind, one after the other, over which the motion is measured.
    """
    result = {}
    for name, (action, measure, sign) in MOTIONS.items():
        taken = (actions == action).all(axis=1) & counted
        at = np.flatnonzero(np.lib.stride_tricks.sliding_window_view(taken, span).all(axis=1))
        if len(at):
            result[name] = np.sign(measure(frames[at], frames[at + span])) == sign
    return result


def action_accuracy(world: World, maps: Sequence[int], seed: int) -> dict[str, object]:
    """The share of frames that move as commanded: generated ones, and the engine's own.

    The engine's frames show how far the measurement can be trusted. Frames in which the engine's
    player was blocked are not counted. Moves are also measured over `SPAN` frames: texture that a
    decoder makes up can stand still in a patch for some frames, while the walls move on.
    """
    generated, true, over_span, true_over_span = [], [], [], []
    for map_seed in maps:
        frames, poses = film_for(world, map_seed, SCRIPT)
        counted = moved(poses)
        new, _ = rollout(world, world.start(frames[0], seed), SCRIPT)
        all_new = np.concatenate([frames[:1], new])
        generated.append(correct_motion(all_new, SCRIPT, counted))
        true.append(correct_motion(frames, SCRIPT, counted))
        over_span.append(correct_motion(all_new, SCRIPT, counted, SPAN))
        true_over_span.append(correct_motion(frames, SCRIPT, counted, SPAN))
    return {
        "action_accuracy": accuracy(generated),
        "action_accuracy_true": accuracy(true),
        "action_accuracy_by_action": {name: accuracy(generated, (name,)) for name in MOTIONS},
        "move_accuracy_over_4": accuracy(over_span, MOVES),
        "move_accuracy_over_4_true": accuracy(true_over_span, MOVES),
        "move_accuracy_over_4_by_action": {n: accuracy(over_span, (n,)) for n in MOVES},
    }


def accuracy(walks: Sequence[Correct], names: Iterable[str] = tuple(MOTIONS)) -> float | None:
    """The share of correct frames over some walks and actions; None where none is counted."""
    parts = [walk[name] for name in names for walk in walks if name in walk]
    return float(np.concatenate(parts).mean()) if parts else None


def moved(poses: Float[np.ndarray, "n+1 3"]) -> Bool[np.ndarray, "n"]:
    """Whether the engine's pose (x, y in map units, heading in degrees) changed, per action."""
    change = np.abs(np.diff(poses, axis=0))
    change[:, 2] = np.minimum(change[:, 2], 360 - change[:, 2])
    return change.max(axis=1) > _MOVED
