"""Policies that walk through a Doom map, and fixed walks for evaluations.

Two kinds of policy: `wander` goes from place to place and looks around; `revisit` keeps returning
to views it has had (turns there and back, out and back, loops through rooms). Both stay away from
walls, where a turn would show nothing but one of them.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

from loci.envs.doom.engine import (
    BACK,
    BEARING,
    FORWARD,
    FULL_TURN,
    LEFT,
    OPPOSITE,
    RIGHT,
    STEP,
    STRAFE_LEFT,
    STRAFE_RIGHT,
    TURN,
    MapPose,
    Run,
    other_way,
    stepped,
    turn_between,
)
from loci.envs.doom.maps import CELL, Cell, Corridor, DoomMap, make_map

Kind = Literal["wander", "revisit"]
KINDS: tuple[Kind, ...] = ("wander", "revisit")
# Map units kept from walls and landmarks: by goals in a room, on entry to one, when roaming.
GOAL_MARGIN, ENTRY_MARGIN, ROAM_MARGIN = 112, 150, 88
LINE_MARGIN = 40  # by straight ways to a goal
# How often moves are taken: mostly forward, every other direction now and then.
MOVES = (FORWARD, FORWARD, FORWARD, FORWARD, BACK, BACK, 3, 3, 4, 4, 5, 6, 7, 8)
ARCS = (FORWARD, FORWARD, FORWARD, BACK, 5, 6, STRAFE_LEFT, STRAFE_LEFT, STRAFE_RIGHT, STRAFE_RIGHT)


class Wanderer:
    """Chooses actions frame by frame; the caller carries them out and keeps `pose` up to date.

    The same map, kind and seed give the same walk. `spin_first` begins with a full turn.
    """

    def __init__(self, doom_map: DoomMap, kind: Kind, seed: int, spin_first: bool = False) -> None:
        self.map, self.kind = doom_map, kind
        self.rng = random.Random(f"walk {kind} {seed}")
        self.pose: MapPose = doom_map.start
        self._runs = self._choose_runs(spin_first)
        self._move, self._view, self._left = 0, 0, 0

    def action(self) -> tuple[int, int]:
        """Move and view ids of the next frame."""
        while self._left <= 0:
            self._move, self._view, self._left = next(self._runs)
        self._left -= 1
        return self._move, self._view

    def blocked(self) -> None:
        """Something is in the way: drop the current runs of actions and choose others."""
        self._runs, self._left = self._recover(), 0

    def _recover(self) -> Iterator[Run]:
        room = self._room()
        goal = self.map.start[:2] if room is None else self.map.rooms[room].middle
        yield from self._walk_to(goal)
        yield from self._choose_runs(spin_first=False)

    def _choose_runs(self, spin_first: bool) -> Iterator[Run]:
        if spin_first:
            yield (0, self._some_way(), FULL_TURN)
        while True:
            yield from self._wander() if self.kind == "wander" else self._revisit()

    def _wander(self) -> Iterator[Run]:
        rng = self.rng
        chance = rng.random()
        if chance < 0.25:
            yield from self._go(self._goal_here(), self._some_move())
        elif chance < 0.45:
            yield from self._change_room()
        elif chance < 0.60:
            yield from self._arc()
        elif chance < 0.85:
            yield from self._step_about()
        elif chance < 0.93:
            yield (0, self._some_way(), rng.randrange(4, 28, 2))
        else:
            yield (0, 0, rng.randrange(4, 16))

    def _revisit(self) -> Iterator[Run]:
        rng = self.rng
        chance = rng.random()
        way = self._some_way()
        if chance < 0.22:
            yield from self._spin(way)
        elif chance < 0.34:
            yield from _glance(way, rng.randrange(6, 25))
        elif chance < 0.62:
            yield from self._out_and_back()
        elif chance < 0.80:
            yield from self._step_about()
        elif chance < 0.96:
            yield from self._loop()
        else:
            yield from self._go(self._goal_here(), FORWARD)
        if rng.random() < 0.35:
            yield (0, 0, rng.randrange(3, 13))

    def _spin(self, way: int) -> Iterator[Run]:
        """A full turn, perhaps more than that, perhaps back again."""
        yield (0, way, FULL_TURN)
        if self.rng.random() < 0.5:
            yield (0, way, self.rng.randrange(4, 25))
        if self.rng.random() < 0.5:
            yield (0, other_way(way), FULL_TURN)

    def _out_and_back(self) -> Iterator[Run]:
        """Walk out and come back, backwards or after turning around."""
        move = self._some_move()
        heading = self.pose[2]
        longest = self._free_steps(move)
        if longest < 8:
            yield from self._go(self._goal_here(), FORWARD)
            return
        frames = self.rng.randrange(8, min(longest, 36) + 1)
        yield (move, 0, frames)
        if move == FORWARD and self.rng.random() < 0.5:
            yield (0, self._some_way(), FULL_TURN // 2)
            yield (FORWARD, 0, frames)
            yield (0, self._some_way(), FULL_TURN // 2)
        else:
            if self.rng.random() < 0.4:
                yield from _glance(self._some_way(), self.rng.randrange(6, 25))
            yield (OPPOSITE[move], 0, frames)
        yield from self._face(heading)

    def _step_about(self) -> Iterator[Run]:
        """A few moves in any direction without turning, each as far as the way is clear."""
        for _ in range(self.rng.randint(2, 5)):
            moves = [move for move in BEARING if self._free_steps(move, most=4) == 4]
            if not moves:
                yield from self._go(self._goal_here(), FORWARD)
                return
            move = self.rng.choice(moves)
            yield (move, 0, self.rng.randint(4, min(self._free_steps(move), 18)))
            if self.rng.random() < 0.3:
                yield (0, 0, self.rng.randrange(2, 8))

    def _loop(self) -> Iterator[Run]:
        """Around the room, or through a corridor and back; ends with the first heading."""
        home, heading = self.pose[:2], self.pose[2]
        room = self._room()
        if self.rng.random() < 0.35 or room is None:
            for _ in range(self.rng.randint(2, 3)):
                yield from self._go(self._goal_here(), FORWARD)
        else:
            yield from self._change_room()
            yield (0, self._some_way(), self.rng.choice((12, 24, 36, 48)))
            yield from self._return_to(room)
        yield from self._go(home, FORWARD)
        yield from self._face(heading)

    def _return_to(self, room: int) -> Iterator[Run]:
        for corridor in self.map.corridors:
            if {corridor.a, corridor.b} == {room, self._room()}:
                yield from self._through(corridor, into=room)
                return

    def _change_room(self) -> Iterator[Run]:
        room = self._room()
        ways = [c for c in self.map.corridors if room in (c.a, c.b)]
        if not ways:  # in a corridor: something was in the way
            yield from self._walk_to(self.map.start[:2])
            return
        corridor = self.rng.choice(ways)
        yield from self._through(corridor, into=corridor.b if corridor.a == room else corridor.a)

    def _through(self, corridor: Corridor, into: int) -> Iterator[Run]:
        for gate in corridor.gates(into):
            yield from self._walk_to(_middle(gate))
        yield from self._go(self.map.rooms[into].point(self.rng, ENTRY_MARGIN), FORWARD)

    def _arc(self) -> Iterator[Run]:
        """Walk and turn at once, as far as the way is clear."""
        move, view = self.rng.choice(ARCS), self._some_way()
        frames = self._free_steps(move, view)
        if frames >= 6:
            yield (move, view, self.rng.randrange(6, min(frames, 24) + 1))
        else:
            yield from self._go(self._goal_here(), FORWARD)

    def _go(self, goal: tuple[float, float], move: int) -> Iterator[Run]:
        """Walk to a point with some move if the straight way is clear; else only turn a little."""
        if self._is_straight_way(goal):
            yield from self._walk_to(goal, move)
        else:
            yield (0, self._some_way(), self.rng.randrange(4, 16, 2))

    def _walk_to(self, goal: tuple[float, float], move: int = FORWARD) -> Iterator[Run]:
        """Turn so that the move leads to the goal, and take it.

        Headings are coarse, so the walker aims anew on the way.
        """
        for _ in range(6):
            dx, dy = goal[0] - self.pose[0], goal[1] - self.pose[1]
            steps = round(math.hypot(dx, dy) / STEP)
            if steps < 2:
                return
            yield from self._face(math.degrees(math.atan2(dy, dx)) - BEARING[move])
            yield (move, 0, min(steps, 20))

    def _face(self, heading: float) -> Iterator[Run]:
        turns = round(turn_between(self.pose[2], heading) / TURN)
        if turns:
            yield (0, LEFT if turns > 0 else RIGHT, abs(turns))

    def _goal_here(self) -> tuple[float, float]:
        room = self._room()
        if room is None:
            return self.map.start[:2]
        return self.map.rooms[room].point(self.rng, GOAL_MARGIN)

    def _some_move(self) -> int:
        return self.rng.choice(MOVES)

    def _some_way(self) -> int:
        return self.rng.choice((LEFT, RIGHT))

    def _room(self) -> int | None:
        return self.map.room_at(*self.pose[:2])

    def _is_straight_way(self, goal: tuple[float, float]) -> bool:
        x, y, _ = self.pose
        dx, dy = goal[0] - x, goal[1] - y
        count = 1 + int(math.hypot(dx, dy) / 16)
        parts = (k / count for k in range(1, count + 1))
        return all(self.map.is_clear(x + dx * p, y + dy * p, LINE_MARGIN) for p in parts)

    def _free_steps(self, move: int, view: int = 0, most: int = 40) -> int:
        """How many frames of one action stay well away from walls and landmarks."""
        pose = self.pose
        for k in range(most):
            pose = stepped(pose, move, view)
            if not self.map.is_clear(pose[0], pose[1], ROAM_MARGIN):
                return k
        return most


def _glance(way: int, frames: int) -> Iterator[Run]:
    """Look to one side, to the other, and straight on again."""
    yield (0, way, frames)
    yield (0, other_way(way), 2 * frames)
    yield (0, way, frames)


def _middle(cell: Cell) -> tuple[float, float]:
    return (cell[0] + 0.5) * CELL, (cell[1] + 0.5) * CELL


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
    doom_map = make_map(map_seed)
    wanderer = Wanderer(doom_map, "wander", seed)
    pose: MapPose = doom_map.start
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
