import time

import pytest
import torch

from loci.caching.presets import LAYOUT, PRESETS, get_preset
from loci.caching.published.step_caches import PublishedStepCacheConfig
from loci.caching.published.token_carving import CarvingConfig, ReleasedCarving
from loci.caching.stats import Stats
from loci.caching.step_cache import StepCacheConfig
from loci.errors import LociError
from tests.caching.toy import INTERVAL, error, run, same, tokens

SCORES, BLOCKS = torch.linspace(0, 1, 40), torch.arange(40) // 4


def test_released_evaluations_of_the_first_stage() -> None:
    """44 without skipping, 17 with: the figures of the released code."""
    stats = Stats()
    policy = PublishedStepCacheConfig("released").policy()
    watched, _ = run(stats.counted("structure", policy, INTERVAL))
    entry = stats.stage("structure")
    assert (entry.exact_evaluations, entry.evaluations, entry.saved) == (44, 17, 27)
    assert (entry.steps, entry.steps_skipped) == (25, 15)
    plain, _ = run(PublishedStepCacheConfig("released").policy())
    assert same(watched, plain)


def test_parts_count_as_parts() -> None:
    stats = Stats()
    policy = ReleasedCarving(CarvingConfig(threshold=0.0, ratio=0.5), SCORES)
    _, toy = run(stats.counted("latents", policy, INTERVAL), start=tokens())
    entry = stats.stage("latents")
    assert entry.evaluations == entry.exact_evaluations == 44
    assert toy.parts[0] == 20
    assert entry.active_share is not None
    assert 0.5 < entry.active_share < 0.8


def test_a_run_watched_over_nothing_is_exact() -> None:
    stats = Stats()
    exact, _ = run(None)
    watched, _ = run(stats.counted("structure", None, INTERVAL))
    assert same(watched, exact)
    assert stats.stage("structure").saved == 0


def test_seconds_errors_and_the_table() -> None:
    stats = Stats()
    with stats.timed("structure") as entry:
        time.sleep(0.01)
    assert entry.seconds >= 0.01
    exact = {"shape": torch.ones(10)}
    stats.record_errors("structure", {"shape": torch.full((10,), 1.1)}, exact)
    assert entry.errors["shape"] == pytest.approx(0.1, rel=1e-5)
    run(stats.counted("latents", None, INTERVAL), start=tokens())
    stats.stage("decoding").decoding_factor = 1.25
    lines = stats.table().splitlines()
    assert [line.split()[0] for line in lines] == [
        "stage", "structure", "latents", "decoding", "all",
    ]  # fmt: skip
    assert "1.25" in lines[3]
    assert "44" in lines[2]
    assert "100%" in lines[2]
    written = stats.to_dict()
    assert written["latents"]["saved"] == 0
    assert written["structure"]["errors"]["shape"] == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset(name: str) -> None:
    chosen = get_preset(name)
    assert chosen.name == name
    exact, _ = run(None)
    ends = [run(chosen.structure_policy(INTERVAL)) for _ in range(2)]
    assert same(ends[0][0], ends[1][0])
    skips = name in ("released", "paper")
    assert (len(ends[0][1].evaluated) < 25) == skips
    assert error(ends[0][0], exact) < 0.3
    latents, toy = run(chosen.latent_policy(INTERVAL, SCORES, BLOCKS), start=tokens())
    assert latents["latents"].isfinite().all()
    assert (len(toy.evaluated) < 25 or bool(toy.parts)) == skips
    assert (chosen.structure_steps < 1) == (name in ("fast", "faster"))
    assert (chosen.latent_steps < 1) == (name in ("fast", "faster"))
    walked, _ = run(chosen.walk_policy(), start=tokens())
    assert walked["latents"].isfinite().all()


def test_one_dial() -> None:
    zero = get_preset("fast").within(0.0)
    exact, _ = run(None)
    assert same(run(zero.structure_policy(INTERVAL))[0], exact)
    loose = get_preset("exact").within(0.1)
    assert isinstance(loose.structure, StepCacheConfig)
    assert loose.structure.layout == LAYOUT
    assert len(run(loose.structure_policy(INTERVAL))[1].evaluated) < 25


def test_an_unknown_preset_names_the_known() -> None:
    with pytest.raises(LociError, match="unknown preset 'warp': expected one of exact, fast"):
        get_preset("warp")


def test_a_held_difference_is_an_evaluation_saved() -> None:
    stats = Stats()
    plain, held = Stats(), stats.counted("structure", None, INTERVAL, every=1000)
    run(plain.counted("structure", None, INTERVAL))
    run(held)
    exact, entry = plain.stage("structure"), stats.stage("structure")
    assert entry.exact_evaluations == exact.exact_evaluations == exact.evaluations
    assert entry.evaluations == entry.steps + 1
    assert entry.saved == exact.evaluations - entry.steps - 1
