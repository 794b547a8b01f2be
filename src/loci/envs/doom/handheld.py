"""Simulates a hand-held camera that is walked through a level: inertia, sway and shake.

Velocities and turns follow what is wanted with a delay; every step sways the camera; the hand
trembles. The walker goes about, comes back to earlier places, looks around, and now and then walks
sideways or backwards. All amplitudes are plausible ones, fitted to nothing.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from loci.envs.base import MapPose
from loci.envs.doom.level import GRID, FloorPlan, Ways

SPEED = (80.0, 130.0)
"""Map units per second; a unit is about 4 cm."""
TURN_RATE = (45.0, 85.0)
"""Degrees per second."""
STARTING_SECONDS, TURNING_SECONDS = 0.3, 0.25
STEPS_PER_SECOND = 1.8
SWAY = 1.2
"""Map units to the side with every step."""
BOB = {"pitch": 0.25, "roll": 0.5}
"""Degrees, with every step."""
TREMBLE = {"yaw": 0.25, "pitch": 0.25, "roll": 0.3}
"""Standard deviations in degrees of a noise of about 2 Hz."""
WANDER = {"pitch": 1.6, "roll": 0.7}
"""The same, of one of about 0.1 Hz: nobody holds a camera level."""
FACING = ((0, 0.68), (180, 0.12), (90, 0.1), (-90, 0.1))
"""Degrees from the way to where the camera looks, and how often."""
REVISIT = 0.55
"""Share of goals that are earlier ones."""
NEAREST, FARTHEST = 160.0, 1500.0
LOOK_AHEAD = 80.0


class Carried(NamedTuple):
    """Motion in one tic: forward and left in map units, the turn to the left in degrees; and how
    the camera is held: pitch (up) and roll (clockwise), in degrees."""

    forward: float
    left: float
    turn: float
    pitch: float
    roll: float


class _Intent(NamedTuple):
    """A velocity in map axes, in units per second; a heading and the rate of turning to it."""

    x: float
    y: float
    heading: float
    rate: float


class _Noise:
    """Smooth noise of unit deviation and a given time constant."""

    def __init__(self, rng: np.random.Generator, seconds: float, fps: float) -> None:
        self._rng, self._keep = rng, math.exp(-1 / (seconds * fps))
        self._inner = self._outer = 0.0

    def __call__(self) -> float:
        keep = self._keep
        drive = math.sqrt(1 - keep**2) * self._rng.standard_normal()
        self._inner = keep * self._inner + drive
        self._outer = keep * self._outer + (1 - keep) * self._inner
        return self._outer * math.sqrt(2)


class HandHeld:
    """Chooses how the camera is carried, tic by tic; the caller keeps `pose` up to date.

    Args:
        plan: of the level.
        pose: where the walk begins.
        seed: the same seed gives the same walk.
        fps: tics per second.
    """

    def __init__(self, plan: FloorPlan, pose: MapPose, seed: int, fps: float) -> None:
        self.plan, self.pose, self.fps = plan, pose, fps
        self.rng = np.random.default_rng(seed)
        self._start, self._free = pose[:2], plan.free.copy()
        self._goals: list[tuple[float, float]] = [pose[:2]]
        self._velocity, self._rate, self._phase = np.zeros(2), 0.0, 0.0
        self._sway = 0.0
        self._slow = 0
        quick, slow = (lambda: _Noise(self.rng, 0.08, fps)), (lambda: _Noise(self.rng, 1.6, fps))
        self._tremble = {name: quick() for name in TREMBLE}
        self._wander = {name: slow() for name in WANDER}
        self._yaw = 0.0
        self._intents = self._live()

    def next(self) -> Carried:
        """What to do in the next tic."""
        intent = next(self._intents)
        share = 1 - math.exp(-1 / (STARTING_SECONDS * self.fps))
        self._velocity += share * (np.array([intent.x, intent.y]) - self._velocity)
        # The yaw of a trembling hand is on top of where the walker means to look.
        missing = (intent.heading - (self.pose[2] - self._yaw) + 180) % 360 - 180
        rate = float(np.clip(missing / TURNING_SECONDS / 1.5, -intent.rate, intent.rate))
        self._rate += (1 - math.exp(-1 / (TURNING_SECONDS * self.fps))) * (rate - self._rate)
        speed = float(np.linalg.norm(self._velocity))
        walking = min(1.0, speed / SPEED[0])
        self._phase += 2 * math.pi * STEPS_PER_SECOND / self.fps * walking
        sway, yaw = SWAY * walking * math.sin(self._phase), TREMBLE["yaw"] * self._tremble["yaw"]()
        turn = self._rate / self.fps + yaw - self._yaw
        heading = math.radians(self.pose[2] + turn)
        cos, sin = math.cos(heading), math.sin(heading)
        dx, dy = self._velocity / self.fps
        move = Carried(
            dx * cos + dy * sin,
            dy * cos - dx * sin + sway - self._sway,
            turn,
            self._held("pitch") + BOB["pitch"] * walking * math.sin(2 * self._phase),
            self._held("roll") + BOB["roll"] * walking * math.sin(self._phase),
        )
        self._sway, self._yaw = sway, yaw
        return move

    def moved(self, before: MapPose, after: MapPose) -> None:
        """Told after every tic: where something stands in the way, another goal is chosen."""
        self.pose = after
        wanted = float(np.linalg.norm(self._velocity)) / self.fps
        done = math.hypot(after[0] - before[0], after[1] - before[1])
        stuck = wanted > 30 / self.fps and done < 0.3 * wanted
        self._slow = self._slow + 1 if stuck else 0
        if self._slow >= 0.3 * self.fps:
            x, y = self._velocity / max(1e-9, float(np.linalg.norm(self._velocity)))
            self.plan.block(after[0] + 28 * x, after[1] + 28 * y)
            self._slow = 0
            self._velocity[:] = 0
            self._intents = self._live()

    def _held(self, name: str) -> float:
        return TREMBLE[name] * self._tremble[name]() + WANDER[name] * self._wander[name]()

    def _live(self) -> Iterator[_Intent]:
        while True:
            chance = self.rng.random()
            if chance < 0.8:
                yield from self._walk()
            elif chance < 0.96:
                yield from self._look_around()
            else:
                yield from self._stand(self.rng.uniform(0.5, 2.0))

    def _walk(self) -> Iterator[_Intent]:
        goal = self._choose_goal()
        ways = self.plan.ways(*goal)
        angles, shares = zip(*FACING, strict=True)
        facing, speed = float(self.rng.choice(angles, p=shares)), self.rng.uniform(*SPEED)
        rate = self.rng.uniform(*TURN_RATE)
        # Nobody walks far without looking where to.
        left = round((30.0 if facing == 0 else self.rng.uniform(2.5, 6.0)) * self.fps)
        for _ in range(left):
            x, y, heading = self.pose
            ahead = ways.ahead(x, y, LOOK_AHEAD)
            if ahead is None or np.hypot(goal[0] - x, goal[1] - y) < 36:
                return
            angle = math.atan2(ahead[1] - y, ahead[0] - x)
            wanted = math.degrees(angle) + facing
            # Before a sharp turn one slows down.
            off = abs((wanted - heading + 180) % 360 - 180)
            pace = speed * (0.25 if off > 60 else 1.0)
            yield _Intent(pace * math.cos(angle), pace * math.sin(angle), wanted, rate)

    def _look_around(self) -> Iterator[_Intent]:
        """Turns on the spot by some angle, or all around; often back again."""
        rng = self.rng
        angle = 360.0 if rng.random() < 0.3 else rng.uniform(60, 180)
        angle *= float(rng.choice([-1, 1]))
        rate = rng.uniform(*TURN_RATE)
        yield from self._stand(0.3)
        yield from self._turn(angle, rate)
        if rng.random() < 0.4:
            yield from self._stand(rng.uniform(0.3, 1.0))
            yield from self._turn(-angle, rate)

    def _turn(self, angle: float, rate: float) -> Iterator[_Intent]:
        heading, steps = self.pose[2], max(1, round(abs(angle) / rate * self.fps))
        for step in range(steps):
            yield _Intent(0.0, 0.0, heading + angle * (step + 1) / steps, 1.5 * rate)

    def _stand(self, seconds: float) -> Iterator[_Intent]:
        heading = self.pose[2] - self._yaw
        for _ in range(max(1, round(seconds * self.fps))):
            yield _Intent(0.0, 0.0, heading, TURN_RATE[0])

    def _choose_goal(self) -> tuple[float, float]:
        here = self.plan.ways(*self.pose[:2])
        if len(self._goals) > 3 and self.rng.random() < REVISIT:
            goal = self._goals[self.rng.integers(len(self._goals))]
            if self._apart(here, goal):
                return goal
        cells = here.reachable()
        lengths = here.distance[tuple(cells.T)]
        near = cells[(lengths > NEAREST) & (lengths < FARTHEST)]
        if not len(near):  # shut in by what was in the way
            self.plan.free = self._free.copy()
            return self._start
        i, j = near[self.rng.integers(len(near))]
        x, y = self.plan.origin + (np.array([i, j]) + 0.5) * GRID
        self._goals.append((float(x), float(y)))
        return self._goals[-1]

    def _apart(self, here: Ways, goal: tuple[float, float]) -> bool:
        return bool(NEAREST < here.distance[self.plan.cell(*goal)] < FARTHEST)
