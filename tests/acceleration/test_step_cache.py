import pytest
import torch

from loci.acceleration.error_budget import is_guided, level
from loci.acceleration.published.forecasts import DynamicModes, Hermite
from loci.acceleration.published.step_caches import PublishedStepCacheConfig
from loci.acceleration.step_cache import StepCacheConfig, StridedStepCacheConfig
from loci.flow import State, StepPolicy, euler_timesteps
from tests.acceleration.toy import INTERVAL, Toy, error, noise, run, same, times

LAYOUT = ("scale",)


def strided(mode: str, **settings) -> StepPolicy:
    """A step cache with a fixed stride."""
    if mode == "loci":
        return StridedStepCacheConfig(**settings).policy(INTERVAL)
    return PublishedStepCacheConfig(mode, **settings).policy(INTERVAL)  # pyright: ignore


@pytest.mark.parametrize("mode", ["released", "paper", "loci"])
def test_most_steps_are_skipped_and_little_is_lost(mode: str) -> None:
    exact, _ = run(None)
    ours, toy = run(strided(mode, layout=LAYOUT))
    assert 8 <= len(toy.evaluated) <= 14
    assert 0 < error(ours, exact) < 0.1


def test_released_evaluates_ten_of_twenty_five() -> None:
    _, toy = run(strided("released"))
    full = [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]
    assert toy.evaluated == pytest.approx([times()[i].item() for i in full])


@pytest.mark.parametrize("mode", ["paper", "loci"])
@pytest.mark.parametrize("steps", [2, 7, 12, 25, 30])
def test_the_last_step_is_evaluated(mode: str, steps: int) -> None:
    _, toy = run(strided(mode, stride=4), steps=steps)
    assert toy.evaluated[-1] == pytest.approx(times(steps)[-1].item())


@pytest.mark.parametrize("steps", [2, 7, 12, 25, 30])
def test_the_last_step_is_evaluated_within_any_tolerance(steps: int) -> None:
    _, toy = run(StepCacheConfig(tolerance=10.0).policy(INTERVAL), steps=steps)
    assert toy.evaluated[-1] == pytest.approx(times(steps)[-1].item())


def test_released_may_forecast_the_last_step() -> None:
    """The released code always evaluates from step 24 on, which a run of 12 steps never reaches."""
    _, toy = run(strided("released"), steps=12)
    assert toy.evaluated[-1] < times(12)[-1].item()


@pytest.mark.parametrize("mode", ["paper", "loci"])
def test_a_stride_of_one_is_exact(mode: str) -> None:
    exact, _ = run(None)
    ours, toy = run(strided(mode, stride=1))
    assert same(ours, exact)
    assert len(toy.evaluated) == 25


@pytest.mark.parametrize(
    "config", [StridedStepCacheConfig(), StepCacheConfig(tolerance=0.05)], ids=["stride", "budget"]
)
def test_nothing_is_forecast_across_a_switch_of_guidance(config) -> None:
    """The velocity jumps there, which a forecast across the switch would carry on."""
    ours, toy = run(config.policy(INTERVAL), Toy(bend=0.0))
    after = [t for t in times().tolist() if t > INTERVAL[1]]
    assert toy.evaluated[-1] == pytest.approx(after[-1])
    assert after[0] == pytest.approx([t for t in toy.evaluated if t > INTERVAL[1]][0])
    exact, _ = run(None, Toy(bend=0.0))
    blind, _ = run(config.policy(None), Toy(bend=0.0))
    assert error(ours, exact) < error(blind, exact)


def test_tolerance_zero_is_exact_and_more_is_faster() -> None:
    exact, _ = run(None)
    counts = []
    for tolerance in (0.0, 0.01, 0.05, 0.3):
        ours, toy = run(StepCacheConfig(tolerance=tolerance).policy(INTERVAL))
        assert same(ours, exact) == (tolerance == 0)
        path = {name: exact[name] - x for name, x in noise().items()}
        missed = {name: path[name] + ours[name] - exact[name] for name in path}
        assert error(missed, path) <= 2 * tolerance + 1e-6
        counts.append(len(toy.evaluated))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 25
    assert counts[-1] < counts[1]


def test_a_straight_trajectory_is_skipped_further_than_a_bent_one() -> None:
    policies = [StepCacheConfig(tolerance=0.02).policy(INTERVAL) for _ in range(2)]
    (_, straight), (_, bent) = run(policies[0], Toy(bend=0.05)), run(policies[1], Toy(bend=4.0))
    assert len(straight.evaluated) < len(bent.evaluated)


def test_skipped_steps_spend_the_budget() -> None:
    """Every skip costs its expected error, and all of them together stay below the tolerance."""
    policy = StepCacheConfig(tolerance=0.05).policy(None)
    spent, expected, skips = [0.0], 0.0, 0
    timesteps, state = times(), {"x": torch.ones(1, 1)}
    for step in range(len(timesteps)):
        now, end = level(step, timesteps), level(step + 1, timesteps)
        cost = policy.growth.expected(policy.history.positions, now) * (end - now)
        if policy.propose(step, timesteps, state) is None:
            bent = torch.full((1, 1), 2 + torch.sin(torch.tensor(6 * now)).item())
            policy.observe(step, timesteps, state, {"x": bent})
        else:
            expected, skips = expected + cost, skips + 1
        spent.append(policy.budget.spent)
        assert policy.budget.spent <= 0.05 * end + 1e-9
    assert skips > 3
    assert spent[-1] == pytest.approx(expected)
    assert spent == sorted(spent)
    # Without the budget the same run would skip more.
    free = StepCacheConfig(tolerance=1e9).policy(None)
    assert len(run(free)[1].evaluated) < len(run(StepCacheConfig(0.005).policy(None))[1].evaluated)


@pytest.mark.parametrize("reach", [0.5, 1.0, 3.0])
def test_no_forecast_goes_further_than_allowed(reach: float) -> None:
    """On a straight trajectory nothing but the reach makes a step be evaluated."""
    policy = StepCacheConfig(tolerance=1e9, max_extrapolation=reach).policy(None)
    timesteps = times(40, 1.0)
    state: State = {"x": torch.ones(1, 1)}
    evaluated: list[float] = []
    for step in range(39):
        now = level(step, timesteps)
        if policy.propose(step, timesteps, state) is None:
            evaluated.append(now)
            policy.observe(step, timesteps, state, {"x": torch.full((1, 1), 1 + now)})
        else:
            assert now - evaluated[-1] <= reach * (evaluated[-1] - evaluated[-2]) + 1e-6
    # The first three steps are evaluated, so that the error of a forecast is known.
    gaps = (torch.tensor(evaluated).diff() * 40).round().tolist()
    assert gaps[:3] == [1, 1, 1 + int(reach)]
    assert len(evaluated) < 39 or reach < 1, "a step is always too far at half a gap"


@pytest.mark.parametrize("forecast", [Hermite(), DynamicModes()])
def test_any_forecast_can_be_used(forecast) -> None:
    exact, _ = run(None)
    ours, toy = run(StepCacheConfig(tolerance=0.03, forecast=forecast).policy(INTERVAL))
    assert error(ours, exact) < 0.1
    assert len(toy.evaluated) < 25


@pytest.mark.parametrize("mode", ["paper", "loci"])
def test_layout_is_smoothed_and_shape_is_not(mode: str) -> None:
    exact, _ = run(None)
    plain, _ = run(strided(mode))
    ours, _ = run(strided(mode, layout=LAYOUT))
    assert torch.equal(ours["shape"], plain["shape"])
    assert not torch.equal(ours["scale"], plain["scale"])
    assert error(ours, exact) < 0.1


def test_levels_of_both_directions() -> None:
    up, down = times(4, 1.0), euler_timesteps(4, 1.0, uniform=True)
    assert [level(i, up) for i in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [level(i, down) for i in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert [is_guided(i, up, INTERVAL) for i in range(4)] == [True, True, True, False]
    assert not is_guided(0, up, None)


def test_the_default_settings() -> None:
    assert StepCacheConfig() == StepCacheConfig(
        tolerance=0.02,
        calibration=None,
        layout=(),
        beta=0.5,
        forecast=None,
        max_extrapolation=2.0,
    )


def test_layout_is_damped_within_a_budget() -> None:
    """Halfway between the latest velocity and the line."""
    policy = StepCacheConfig(tolerance=1e9, layout=LAYOUT).policy(None)
    timesteps, velocity = times(10, 1.0), lambda now: torch.full((1, 2), 1 + now)
    state = {"shape": torch.ones(1, 2), "scale": torch.ones(1, 2)}
    for step in range(3):
        assert policy.propose(step, timesteps, state) is None
        now = level(step, timesteps)
        policy.observe(step, timesteps, state, {name: velocity(now) for name in state})
    forecast = policy.propose(3, timesteps, state)
    assert forecast is not None
    assert torch.allclose(forecast["shape"], velocity(0.3))
    assert torch.allclose(forecast["scale"], velocity(0.25))
