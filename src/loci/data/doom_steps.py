"""What one action does to a walker in Doom, in the units of its maps.

The ids are those of `actions.vocabulary`; looking up and down is not part of these worlds.
"""

import math

STEP = 12.0  # map units that a move covers in one frame, along diagonals too
TURN = 7.5  # degrees that a turn covers in one frame
FULL_TURN = 48  # frames

FORWARD, BACK = 1, 2
STRAFE_LEFT, STRAFE_RIGHT = 3, 4
BEARING = {1: 0, 2: 180, 3: 90, 4: -90, 5: 45, 6: -45, 7: 135, 8: -135}  # of a move, in degrees
OPPOSITE = {0: 0, 1: 2, 2: 1, 3: 4, 4: 3, 5: 8, 8: 5, 6: 7, 7: 6}
LEFT, RIGHT = 3, 4  # views
TURN_SIGN = {0: 0, LEFT: 1, RIGHT: -1}

Pose = tuple[float, float, float]  # x, y in map units; heading in degrees, counter-clockwise
Run = tuple[int, int, int]  # move, view, frames


def stepped(pose: Pose, move: int, view: int) -> Pose:
    """The pose after one action, if nothing stands in the way: a turn first, then the move."""
    x, y, heading = pose
    heading += TURN * TURN_SIGN[view]
    if move == 0:
        return x, y, heading
    angle = math.radians(heading + BEARING[move])
    return x + STEP * math.cos(angle), y + STEP * math.sin(angle), heading


def other_way(view: int) -> int:
    """Right for left, left for right."""
    return LEFT + RIGHT - view


def turn_between(heading: float, goal: float) -> float:
    """The shorter turn from one heading to another, degrees in [-180, 180)."""
    return (goal - heading + 180) % 360 - 180
