"""What counts as obeyed, and that the engine obeys."""

import numpy as np
import pytest

from loci.bench.studies.hand_films import FIRST_HELD_OUT, map_sectors, obeyed
from loci.bench.studies.label_judging import ENGINE, MOVED, obedience, roomy
from loci.bench.studies.label_training import TARGETS
from loci.bench.world.control import MOTIONS
from loci.envs.doom.level import FloorPlan
from loci.envs.doom.maps import make_map


def pictures(count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, 16, 48, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def test_a_picture_that_moves_the_other_way_does_not_obey() -> None:
    wide = pictures()
    middle = wide[:, :, 128:256]
    to_right, to_left = wide[:, :, 118:246], wide[:, :, 138:266]
    commands = dict.fromkeys(ENGINE, (middle, middle))
    commands[0, 3] = middle, to_right
    commands[0, 4] = middle, to_right
    commands[3, 0] = middle, to_right
    commands[4, 0] = middle, to_left
    found = obedience(commands)
    assert (found["turn left"], found["turn right"]) == (1.0, 0.0)
    assert (found["left"], found["right"]) == (1.0, 1.0)
    assert found["forward"] == 0.0, "a picture that stands does not go ahead"
    assert found["turn_pixels"] == 0
    assert found["still_pixels"] == found["still_moved"] == 0
    assert found["still_psnr"] == 60
    commands[0, 0] = middle, to_left
    assert obedience(commands)["still_pixels"] == 10
    assert obedience(commands)["still_moved"] == 1.0
    assert MOVED < 10


def test_the_engine_obeys() -> None:
    doom_map = make_map(FIRST_HELD_OUT)
    x, y, heading = doom_map.start
    poses = np.array([[[x, y, heading], [x, y, heading + 90]]])
    assert len(roomy(poses, range(2))) == 2
    assert not len(roomy(poses * [0, 0, 1] - [500, 0, 0], range(2))), "in a wall"
    starts = [(FIRST_HELD_OUT, (float(a), float(b), float(c))) for a, b, c in poses[0]]
    shown = obeyed(starts, list(ENGINE.values()), TARGETS)
    frames = {k: (shown[:, i, 0], shown[:, i, -1]) for i, k in enumerate(ENGINE)}
    found = obedience(frames)
    assert [found[name] for name in MOTIONS] == [1.0] * len(MOTIONS)
    assert found["turn_pixels"] == pytest.approx(25, abs=4)
    assert found["still_psnr"] == 60


def test_one_can_walk_where_a_map_is_open() -> None:
    doom_map = make_map(FIRST_HELD_OUT)
    plan = FloorPlan(map_sectors(doom_map))
    ways = plan.ways(*doom_map.start[:2])
    for room in doom_map.rooms:
        assert np.isfinite(ways.distance[plan.cell(*room.middle)]), "all rooms are joined"
    mark = doom_map.landmarks[0]
    assert not plan.free[plan.cell(mark.x, mark.y)]
    assert plan.free.any()
