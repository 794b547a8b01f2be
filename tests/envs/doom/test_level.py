"""Freedoom's levels: where one can walk, how a camera is carried, and how a hand holds it."""

import numpy as np
import pytest

from loci.envs.doom.handheld import SPEED, HandHeld
from loci.envs.doom.level import GRID, FloorPlan, LevelCamera, Sector
from loci.errors import LociError


def room(x: float, y: float, width: float, height: float, floor: float, doors: str = "") -> Sector:
    """A rectangle; the sides named in `doors` (n, e, s, w) can be passed."""
    a, b, c, d = (x, y), (x + width, y), (x + width, y + height), (x, y + height)
    sides = {"s": (*a, *b), "e": (*b, *c), "n": (*c, *d), "w": (*d, *a)}
    blocking = [side not in doors for side in sides]
    return Sector(floor, floor + 128, np.array(list(sides.values()), float), np.array(blocking))


def plan(step: float) -> FloorPlan:
    """A room, a passage of 128 units, and a room whose floor is `step` higher."""
    return FloorPlan(
        [
            room(0, 0, 320, 320, 0, "e"),
            room(320, 0, 128, 320, step / 2, "ew"),
            room(448, 0, 320, 320, step, "w"),
        ]
    )


def test_a_way_leads_over_stairs_and_keeps_from_walls() -> None:
    low = plan(40)
    assert not low.free[low.cell(160, 20)], "too near to a wall"
    assert low.free[low.cell(160, 160)]
    ways = low.ways(640, 160)
    assert ways.distance[low.cell(160, 160)] == pytest.approx(480, abs=2 * GRID)
    at = np.array([100.0, 60.0])
    for _ in range(60):
        ahead = ways.ahead(float(at[0]), float(at[1]), 48)
        assert ahead is not None
        at = at + 16 * (ahead - at) / max(16, np.linalg.norm(ahead - at))
        assert 20 < at[1] < 300
    assert np.linalg.norm(at - [640, 160]) < 20


def test_no_way_leads_up_a_ledge() -> None:
    high = plan(60)
    ways = high.ways(640, 160)
    assert not np.isfinite(ways.distance[high.cell(160, 160)])
    assert ways.ahead(160, 160, 48) is None


def test_what_stands_in_the_way_is_walked_around() -> None:
    low = plan(0)
    direct = low.ways(640, 160).distance[low.cell(160, 160)]
    for y in range(80, 241, 16):
        low.block(380, y)
    assert low.ways(640, 160).distance[low.cell(160, 160)] > direct + GRID


def test_a_hand_held_walk_has_inertia_and_all_kinds_of_motion() -> None:
    walk = HandHeld(plan(0), (160.0, 160.0, 30.0), seed=3, fps=30)
    poses, tilt = [walk.pose], []
    for _ in range(6000):
        step = walk.next()
        x, y, heading = before = walk.pose
        heading += step.turn
        cos, sin = np.cos(np.radians(heading)), np.sin(np.radians(heading))
        dx, dy = step.forward * cos - step.left * sin, step.forward * sin + step.left * cos
        after = (x + dx, y + dy, heading)
        walk.moved(before, after)
        poses.append(after)
        tilt.append((step.pitch, step.roll))
    path = np.array(poses)
    velocity = 30 * np.diff(path[:, :2], axis=0)
    speed = np.linalg.norm(velocity, axis=1)
    assert 0.5 * SPEED[0] < np.quantile(speed, 0.8) < 1.2 * SPEED[1]
    assert np.abs(np.diff(velocity, axis=0)).max() < 40, "no jerks"
    assert (speed < 5).mean() > 0.03, "stands or looks around"
    turn = np.diff(path[:, 2])
    assert 1.0 < np.abs(turn).max() < 5
    angle = np.degrees(np.arctan2(velocity[:, 1], velocity[:, 0])) - path[1:, 2]
    side = np.cos(np.radians(angle[speed > 60]))
    assert (side > 0.9).mean() > 0.4
    assert (side < -0.9).any(), "sometimes backwards"
    assert 0.5 < np.std(tilt) < 3
    assert path[:, :2].min() > 0
    assert path[:, 0].max() < 768, "within the rooms"


def test_a_camera_is_carried_as_told() -> None:
    pytest.importorskip("vizdoom", reason="the extra `doom` is not installed")
    with LevelCamera(4, 77) as camera:
        x, y, heading = camera.pose()
        assert camera.frame().shape == (600, 800, 3)
        assert len(camera.sectors()) > 100
        for _ in range(10):
            camera.carry(2.0, -0.5, 1.3)
        x2, y2, heading2 = camera.pose()
    assert (heading2 - heading + 180) % 360 - 180 == pytest.approx(13, abs=0.05)
    assert np.hypot(x2 - x, y2 - y) == pytest.approx(20.6, abs=0.6), "rounding is carried on"


def test_other_levels_are_refused() -> None:
    with pytest.raises(LociError, match="level 33, expected 1 to 32"):
        LevelCamera(33, 77)
