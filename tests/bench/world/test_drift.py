"""Long walks, and distances to the engine."""

import numpy as np
import pytest
import torch

from loci.actions import DEFAULT_WALK, parse_keys
from loci.bench.metrics import contrast, frechet_distance, gradient_energy
from loci.bench.report import DriftPlan, MemoryPlan
from loci.bench.world.drift import (
    RETURN,
    WINDOW,
    FreeWalks,
    LongWalk,
    alive,
    drift,
    long_walk,
    sharpness_of_new_views,
    start_pictures,
)
from loci.bench.world.trials import rollout
from loci.memory.poses import dead_reckon
from loci.world.config import doom_world
from tests.world.models import small_world

RNG = np.random.default_rng(0)


class Means:
    """Mean colours in place of network features."""

    name = "means"

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames.astype(np.float64).mean(axis=(1, 2))


def test_the_default_walk_returns_to_its_start() -> None:
    move, view = torch.from_numpy(parse_keys(DEFAULT_WALK))[None].unbind(-1)
    scale = doom_world().action_scale
    assert scale is not None
    poses = dead_reckon(torch.zeros(1, 3, dtype=torch.float64), move, view, scale)[0]
    assert len(poses) == 2 * RETURN
    for frame in (RETURN, 2 * RETURN):
        heading, x, y = poses[frame - 1].tolist()
        assert np.cos(heading) == pytest.approx(1)
        assert (x, y) == pytest.approx((0, 0), abs=1e-6)


def test_alive_compares_the_end_with_the_beginning() -> None:
    gradient, contrasts = np.full(4096, 7.0), np.full(4096, 3.0)
    gradient[:WINDOW], gradient[-WINDOW:] = 8.0, 2.0
    contrasts[-WINDOW - 1] = 1e9  # just before the last window
    walk = LongWalk(gradient, contrasts, {})
    assert walk.alive(4096) == {"gradient": 0.25, "contrast": 1.0}
    short = LongWalk(np.arange(64.0), np.ones(64), {})  # windows of 8 frames
    assert short.alive(64) == {"gradient": 59.5 / 3.5, "contrast": 1.0}


def test_a_long_walk_measures_every_frame_and_keeps_some() -> None:
    world = small_world()
    picture = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    walk = long_walk(world, picture, 10, seed=1, keep={3, 10})
    actions = np.resize(parse_keys(DEFAULT_WALK), (10, 2))
    frames, _ = rollout(world, world.start(picture, 1), actions)
    assert walk.gradient.tolist() == gradient_energy(frames).tolist()
    assert walk.contrast.tolist() == contrast(frames).tolist()
    assert list(walk.kept) == [0, 3, 10]
    assert (walk.kept[0] == picture).all()
    assert (walk.kept[3] == frames[2]).all()
    assert (walk.kept[10] == frames[9]).all()


def test_long_walks_have_all_figures() -> None:
    plan = MemoryPlan(
        drift=DriftPlan(frames=32, early=(4, 11), late=(25, 32)), alive=(16, 32), pictures=1
    )
    reference = RNG.normal(size=(8, 3))
    world = small_world()
    found = alive(world, plan, Means(), reference, seed=0)  # pyright: ignore[reportArgumentType]
    (picture,) = start_pictures(world, 1, 0)
    walk = long_walk(world, picture, 32, 0, range(33))
    assert found["alive_32_by_walk"] == [walk.alive(32)]
    assert found["alive_32"] == min(walk.alive(32).values())
    assert found["alive_16"] == min(walk.alive(16).values())
    late, early = ([walk.kept[n] for n in range(*part)] for part in ((25, 33), (4, 12)))
    near, far = (frechet_distance(Means()(np.stack(some)), reference) for some in (early, late))
    assert found["drift_ratio_32"] == pytest.approx(far / near)
    assert found["start_view"] == {}
    assert alive(world, MemoryPlan(alive=()), Means(), reference, 0) == {}  # pyright: ignore


def test_distance_to_the_engine_is_measured_at_both_ends() -> None:
    plan = DriftPlan(frames=32, early=(4, 11), late=(25, 32), first=8, last=4)
    true = RNG.integers(0, 100, (33, 8, 8, 3), dtype=np.uint8)
    generated = true.copy()
    generated[-4:] += 60
    walks = FreeWalks([generated], [true], 1.0)
    found = drift(walks, plan, Means(), Means()(true))  # pyright: ignore[reportArgumentType]
    ends = found["frechet_to_engine"]
    assert isinstance(ends, dict)
    assert ends["first"] == pytest.approx(0, abs=1e-9)
    assert ends["last"] == pytest.approx(3 * 60**2)


def test_sharpness_of_new_views_is_that_of_the_way_out() -> None:
    true = RNG.integers(0, 256, (33, 16, 16, 3), dtype=np.uint8)
    generated = (true.astype(int) // 2).astype(np.uint8)
    generated[17:] = 0  # the way back does not count
    found = sharpness_of_new_views(FreeWalks([generated], [true], 1.0))
    assert found["gradient"] == pytest.approx(0.25, rel=0.02)
    assert found["laplacian"] == pytest.approx(0.25, rel=0.02)
