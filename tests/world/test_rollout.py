"""Walks at a speed: exact to the last bit, a fresh policy for every chunk, a stats."""

from dataclasses import replace

import numpy as np
import pytest

from loci.acceleration.presets import Preset
from loci.acceleration.stats import Stats
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_cache import TokenCacheConfig
from loci.errors import LociError
from loci.flow import EvaluateAll, sample
from loci.world import sampling
from tests.world.models import small_world
from tests.world.test_world import walked


class Held(EvaluateAll):
    """Evaluates the first step, and holds its velocity."""

    def propose(self, step, timesteps, state):
        return self.last if step else None

    def observe(self, step, timesteps, state, velocity):
        self.last = velocity


def test_exact_is_no_policy_at_all_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small_world()
    frames, state = walked(world, 3)
    named, again = walked(world.at_speed("exact"), 3)
    monkeypatch.setattr(sampling, "sample", lambda *given, **options: sample(*given))
    plain, by_hand = walked(world, 3)
    assert np.array_equal(frames, named)
    assert np.array_equal(frames, plain)
    assert (state.newest_latent == again.newest_latent).all()
    assert (state.newest_latent == by_hand.newest_latent).all()


def test_every_chunk_has_a_policy_of_its_own() -> None:
    made: list[Held] = []

    def policy() -> Held:
        made.append(Held())
        return made[-1]

    world, stats = small_world(), Stats()
    quick = world.at_speed(Preset("held", walk=policy), stats)
    frames, _ = walked(quick, 3)
    assert len(made) == 3
    entry = stats.stage("sampling")
    assert (entry.evaluations, entry.saved, entry.steps) == (3, 3, 6)
    assert set(stats.stages) == {"context", "sampling", "frames", "history"}
    assert quick.stats is stats
    exact, _ = walked(world, 3)
    assert not np.array_equal(frames, exact)
    assert world.stats.stage("sampling").saved == 0, "the world it was made from is as it was"


def test_carving_in_a_walk() -> None:
    world = small_world()
    world.config = replace(world.config, sampling=replace(world.config.sampling, steps=12))
    exact, _ = walked(world, 3)
    none = world.at_speed(Preset("carved", walk=TokenCacheConfig(tolerance=0.0)))
    assert np.array_equal(walked(none, 3)[0], exact)
    config = TokenCacheConfig(tolerance=0.02, carving_share=1.0, full_above=0.95)
    carved = world.at_speed(Preset("carved", walk=config))
    frames, state = walked(carved, 3)
    entry = carved.stats.stage("sampling")
    assert entry.active_share is not None
    assert 0.1 < entry.active_share < 0.97
    assert not np.array_equal(frames, exact)
    assert np.abs(frames.astype(int) - exact).mean() < 8
    again, other = walked(carved, 3)
    assert np.array_equal(frames, again)
    assert (state.newest_latent == other.newest_latent).all()


def test_one_dial_for_whichever_policy_a_walk_has() -> None:
    carved = Preset("carved", walk=TokenCacheConfig(0.1, max_skips=2)).within(0.3)
    assert carved.walk == TokenCacheConfig(0.3, max_skips=2)
    assert Preset("exact").within(0.3).walk == StepCacheConfig(tolerance=0.3)


def test_named_speeds_save_evaluations() -> None:
    world = small_world()
    world.config = replace(world.config, sampling=replace(world.config.sampling, steps=12))
    quick = world.at_speed(Preset("any", walk=None).within(1.0))
    walked(quick, 2)
    entry = quick.stats.stage("sampling")
    assert 0 < entry.evaluations < entry.exact_evaluations == 24
    with pytest.raises(LociError, match="unknown preset 'slow'"):
        world.at_speed("slow")


def test_a_verified_walk_is_the_same_walk_and_knows_its_error() -> None:
    world, checked = small_world(), Stats()
    held = Preset("held", walk=Held)
    frames, _ = walked(world.at_speed(held), 2)
    again, _ = walked(world.at_speed(held, checked, verify=True), 2)
    assert np.array_equal(frames, again)
    assert checked.stage("sampling").errors["latents"] > 0
    walked(world.at_speed("exact", same := Stats(), verify=True), 1)
    assert same.stage("sampling").errors["latents"] == 0


def test_fewer_steps_are_written_down_as_saved() -> None:
    world = small_world()
    steps = world.config.sampling.steps
    frames, _ = walked(world.at_speed(Preset("half", walk_step_share=0.5), stats := Stats()), 3)
    entry = stats.stage("sampling")
    assert (entry.evaluations, entry.evaluations + entry.saved) == (3 * round(steps / 2), 3 * steps)
    fewer = small_world()
    fewer.config = replace(fewer.config, sampling=replace(fewer.config.sampling, steps=steps // 2))
    assert np.array_equal(frames, walked(fewer, 3)[0])
