import pytest
import torch

from loci.caching.error_budget import is_guided, level
from loci.caching.forecast import DynamicModes, Hermite
from loci.caching.step_cache import StepCacheConfig, step_cache
from loci.flow import euler_timesteps
from tests.caching.toy import INTERVAL, Toy, error, noise, run, same, times

LAYOUT = ("scale",)


@pytest.mark.parametrize("mode", ["released", "paper", "loci"])
def test_most_steps_are_skipped_and_little_is_lost(mode) -> None:
    exact, _ = run(None)
    ours, toy = run(step_cache(StepCacheConfig(mode, layout=LAYOUT), INTERVAL))
    assert 8 <= len(toy.evaluated) <= 14
    assert 0 < error(ours, exact) < 0.1


def test_released_evaluates_ten_of_twenty_five() -> None:
    _, toy = run(step_cache(StepCacheConfig("released")))
    full = [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]
    assert toy.evaluated == pytest.approx([times()[i].item() for i in full])


@pytest.mark.parametrize("mode", ["paper", "loci"])
@pytest.mark.parametrize("steps", [2, 7, 12, 25, 30])
def test_the_last_step_is_exact(mode, steps: int) -> None:
    _, toy = run(step_cache(StepCacheConfig(mode, stride=4), INTERVAL), steps=steps)
    assert toy.evaluated[-1] == pytest.approx(times(steps)[-1].item())


def test_released_may_forecast_the_last_step() -> None:
    """As published: the end is hard-wired to step 24."""
    _, toy = run(step_cache(StepCacheConfig("released")), steps=12)
    assert toy.evaluated[-1] < times(12)[-1].item()


@pytest.mark.parametrize("mode", ["paper", "loci"])
def test_a_stride_of_one_is_exact(mode) -> None:
    exact, _ = run(None)
    ours, toy = run(step_cache(StepCacheConfig(mode, stride=1), INTERVAL))
    assert same(ours, exact)
    assert len(toy.evaluated) == 25


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_nothing_is_forecast_across_the_switch_of_guidance(tolerance: float | None) -> None:
    """Steps on both sides differ by a jump, which a forecast across it would carry over."""
    ours = step_cache(StepCacheConfig(tolerance=tolerance), INTERVAL)
    _, toy = run(ours, Toy(bend=0.0))
    after = [t for t in times().tolist() if t > INTERVAL[1]]
    assert toy.evaluated[-1] == pytest.approx(after[-1])
    assert after[0] == pytest.approx([t for t in toy.evaluated if t > INTERVAL[1]][0])
    exact, _ = run(None, Toy(bend=0.0))
    blind, _ = run(step_cache(StepCacheConfig(tolerance=tolerance), None), Toy(bend=0.0))
    forecast, _ = run(step_cache(StepCacheConfig(tolerance=tolerance), INTERVAL), Toy(bend=0.0))
    assert error(forecast, exact) < error(blind, exact)


def test_tolerance_zero_is_exact_and_more_is_faster() -> None:
    exact, _ = run(None)
    counts = []
    for tolerance in (0.0, 0.01, 0.05, 0.3):
        ours, toy = run(step_cache(StepCacheConfig(tolerance=tolerance), INTERVAL))
        assert same(ours, exact) == (tolerance == 0)
        way = {name: exact[name] - x for name, x in noise().items()}
        missed = {name: way[name] + ours[name] - exact[name] for name in way}
        assert error(missed, way) <= 2 * tolerance + 1e-6
        counts.append(len(toy.evaluated))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 25
    assert counts[-1] < counts[1]


def test_the_budget_adapts_to_the_course() -> None:
    """A straight course is skipped further than a bent one."""
    policies = [step_cache(StepCacheConfig(tolerance=0.02), INTERVAL) for _ in range(2)]
    (_, calm), (_, wild) = run(policies[0], Toy(bend=0.05)), run(policies[1], Toy(bend=4.0))
    assert len(calm.evaluated) < len(wild.evaluated)


@pytest.mark.parametrize("forecast", [Hermite(), DynamicModes()])
def test_any_forecast_can_be_put_in(forecast) -> None:
    exact, _ = run(None)
    config = StepCacheConfig(tolerance=0.03, forecast=forecast)
    ours, toy = run(step_cache(config, INTERVAL))
    assert error(ours, exact) < 0.1
    assert len(toy.evaluated) < 25


@pytest.mark.parametrize("mode", ["paper", "loci"])
def test_layout_is_smoothed_and_shape_is_not(mode) -> None:
    exact, _ = run(None)
    plain, _ = run(step_cache(StepCacheConfig(mode), INTERVAL))
    ours, _ = run(step_cache(StepCacheConfig(mode, layout=LAYOUT), INTERVAL))
    assert torch.equal(ours["shape"], plain["shape"])
    assert not torch.equal(ours["scale"], plain["scale"])
    assert error(ours, exact) < 0.1


def test_levels_of_both_directions() -> None:
    up, down = times(4, 1.0), euler_timesteps(4, 1.0, even=True)
    assert [level(i, up) for i in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [level(i, down) for i in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert [is_guided(i, up, INTERVAL) for i in range(4)] == [True, True, True, False]
    assert not is_guided(0, up, None)
