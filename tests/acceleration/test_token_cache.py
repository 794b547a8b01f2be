import math

import pytest
import torch

from loci.acceleration.token_cache import (
    TokenCache,
    TokenCacheConfig,
    TokenForecasts,
    cheapest_tokens,
)
from loci.flow import State
from tests.acceleration.toy import INTERVAL, Toy, error, run, same, times, tokens


class Uneven(Toy):
    """Tokens from the 20th on bend ten times as much."""

    def __call__(self, state: State, timestep):
        v = super().__call__(state, timestep)
        if len(v["latents"]) == 40:
            bend = torch.sin(12 * timestep[0] / 1000) * (torch.arange(40) >= 20)
            v = {"latents": v["latents"] + bend[:, None]}
        return v

    def partial(self, state: State, timestep, indices):
        self.parts.append(len(indices))
        return {"latents": self(state, timestep)["latents"][indices]}


def test_tolerance_zero_is_exact() -> None:
    exact, _ = run(None, start=tokens())
    ours, toy = run(TokenCache(TokenCacheConfig(0.0), INTERVAL), start=tokens())
    assert same(ours, exact)
    assert len(toy.evaluated) == 25
    assert not toy.parts


def test_the_tokens_that_bend_are_evaluated_and_the_others_carved() -> None:
    exact, _ = run(None, Uneven(), tokens())
    config = TokenCacheConfig(tolerance=0.02, carving_share=1.0)
    policy = TokenCache(config, INTERVAL)
    chosen: list[torch.Tensor] = []

    class Witnessed(Uneven):
        def partial(self, state, timestep, indices):
            chosen.append(indices)
            return super().partial(state, timestep, indices)

    ours, toy = run(policy, Witnessed(), tokens())
    assert chosen
    bending = sum(int((indices >= 20).sum()) for indices in chosen)
    calm = sum(int((indices < 20).sum()) for indices in chosen)
    assert bending > 1.5 * calm
    assert error(ours, exact) < 0.05
    assert toy.evaluated[-1] == pytest.approx(times()[-1].item())


def test_more_tolerance_spares_more() -> None:
    exact, _ = run(None, Uneven(), tokens())
    costs, errors = [], []
    for tolerance in (0.001, 0.01, 0.1):
        ours, toy = run(TokenCache(TokenCacheConfig(tolerance), INTERVAL), Uneven(), tokens())
        whole = len(toy.evaluated) - len(toy.parts)
        costs.append(whole + sum(toy.parts) / 40)
        errors.append(error(ours, exact))
    assert costs[0] > costs[1] > costs[2]
    assert errors[0] < errors[2] < 0.3


def test_whole_evaluations_around_the_switch_of_guidance() -> None:
    toy = Uneven()
    run(TokenCache(TokenCacheConfig(0.2), INTERVAL), toy, tokens())
    after = [t for t in times().tolist() if t > INTERVAL[1]]
    assert after[:2] == pytest.approx([t for t in toy.evaluated if t > INTERVAL[1]][:2])


def test_forecasts_of_tokens_evaluated_at_different_steps() -> None:
    forecasts = TokenForecasts(torch.zeros(2, 1), 0.0)
    assert forecasts.expected_error(0.1).isinf().all()  # nothing is known yet
    forecasts.update(torch.ones(2, 1), 0.1, None)
    assert forecasts.velocity(0.3)[:, 0].tolist() == pytest.approx([3, 3])
    forecasts.update(torch.tensor([[2.0], [9.0]]), 0.2, torch.tensor([0]))
    assert forecasts.skips.tolist() == [0, 1]
    assert forecasts.velocity(0.3)[:, 0].tolist() == pytest.approx([3, 3])
    forecasts.update(torch.tensor([[3.0], [6.0]]), 0.3, None)
    missing = forecasts.expected_error(0.4)
    assert missing[0] == pytest.approx(0, abs=1e-5)
    assert missing[1] > 0.1


def test_the_cheapest_blocks_within_a_limit() -> None:
    cost = torch.tensor([1.0, 5.0, 2.0, 1.0])
    assert cheapest_tokens(cost, None, 4.0).tolist() == [True, False, True, True]
    blocks = torch.tensor([0, 0, 1, 1])
    assert cheapest_tokens(cost, blocks, 4.0).tolist() == [False, False, True, True]
    assert not cheapest_tokens(cost, blocks, 0.0).any()
    with pytest.raises(ValueError, match="warmup"):
        TokenCache(TokenCacheConfig(warmup=1))


def straight(steps: int = 30) -> tuple[torch.Tensor, State]:
    return times(steps, 1.0), {"latents": torch.ones(40, 1)}


def drive(policy: TokenCache, velocity, steps: int = 30) -> list[torch.Tensor | None]:
    """Per step the tokens evaluated: all of them, some, or None if the step was skipped."""
    timesteps, state = straight(steps)
    evaluated: list[torch.Tensor | None] = []
    for step in range(steps):
        if policy.propose(step, timesteps, state) is not None:
            evaluated.append(None)
            continue
        indices = policy.select(step, timesteps, state)
        v = velocity(timesteps[step].item() / 1000)
        if indices is not None:
            v = policy.fill(step, timesteps, state, indices, {"latents": v[indices]})["latents"]
        policy.observe(step, timesteps, state, {"latents": v})
        evaluated.append(torch.arange(40) if indices is None else indices)
    return evaluated


def half_bent(at: float) -> torch.Tensor:
    """The velocity of the first 20 tokens is a straight line, that of the others is bent."""
    line, bent = torch.full((20, 1), 1 + at), torch.full((20, 1), 1 + math.sin(25 * at))
    return torch.cat([line, bent])


@pytest.mark.parametrize("max_skips", [1, 2, 4])
def test_a_token_is_left_out_of_a_limited_number_of_evaluations(max_skips: int) -> None:
    config = TokenCacheConfig(
        0.02, carving_share=1.0, full_above=1.0, max_skips=max_skips, max_extrapolation=1e9
    )
    evaluated = [indices for indices in drive(TokenCache(config), half_bent) if indices is not None]
    skips = torch.zeros(40)
    longest = 0
    for indices in evaluated:
        skips += 1
        skips[indices] = 0
        longest = max(longest, int(skips.max()))
    assert longest == max_skips


@pytest.mark.parametrize("reach", [0.5, 1.0, 2.0])
def test_no_token_is_forecast_further_than_allowed(reach: float) -> None:
    config = TokenCacheConfig(
        10.0, carving_share=1.0, full_above=1.0, max_skips=99, max_extrapolation=reach
    )
    policy = TokenCache(config)
    evaluated = drive(policy, half_bent)
    latest, older = torch.full((40,), -1.0), torch.full((40,), -2.0)
    furthest = 0.0
    for step, indices in enumerate(evaluated):
        left_out = torch.ones(40, dtype=torch.bool)
        if indices is not None:
            left_out[indices] = False
            older[indices], latest[indices] = latest[indices], float(step)
        if left_out.any():
            ratio = (step - latest[left_out]) / (latest[left_out] - older[left_out])
            furthest = max(furthest, float(ratio.max()))
    assert furthest == (0 if reach < 1 else reach)


def test_skips_and_partial_evaluations_spend_the_budget() -> None:
    policy = TokenCache(TokenCacheConfig(0.02, carving_share=1.0, full_above=1.0))
    timesteps, state = straight()
    before, spent_by_skips, spent_by_parts = 0.0, 0.0, 0.0
    for step in range(30):
        end = (step + 1) / 30
        skipped = policy.propose(step, timesteps, state) is not None
        if skipped:
            spent_by_skips += policy.budget.spent - before
        else:
            indices = policy.select(step, timesteps, state)
            v = half_bent(timesteps[step].item() / 1000)
            if indices is not None:
                spent_by_parts += policy.budget.spent - before
                v = policy.fill(step, timesteps, state, indices, {"latents": v[indices]})["latents"]
            policy.observe(step, timesteps, state, {"latents": v})
        assert before <= policy.budget.spent <= 0.02 * end + 1e-6
        before = policy.budget.spent
    assert spent_by_parts > 0
    assert spent_by_skips >= 0
    costs = [
        sum(len(indices) for indices in drive(TokenCache(config), half_bent) if indices is not None)
        for config in (TokenCacheConfig(t, carving_share=1.0) for t in (0.0, 0.005, 0.05))
    ]
    assert costs[0] == 30 * 40
    assert costs[0] > costs[1] > costs[2]


def test_a_skipped_step_costs_its_expected_error() -> None:
    policy = TokenCache(TokenCacheConfig(0.1, carving_share=0.0))
    timesteps, state = straight()
    skips = 0
    for step in range(30):
        now, before = timesteps[step].item() / 1000, policy.budget.spent
        expected = None if policy.forecasts is None else policy.forecasts.expected_error(now)
        if policy.propose(step, timesteps, state) is None:
            policy.observe(step, timesteps, state, {"latents": half_bent(now)})
            assert policy.budget.spent == before
        else:
            assert expected is not None
            rms = expected.square().mean().sqrt().item()
            assert policy.budget.spent - before == pytest.approx(rms / 30, rel=1e-4)
            skips += 1
    assert skips > 2


@pytest.mark.parametrize("warmup", [2, 4])
def test_the_warm_up_is_evaluated_in_full(warmup: int) -> None:
    config = TokenCacheConfig(
        1e9, carving_share=1.0, full_above=1.0, warmup=warmup, max_skips=99, max_extrapolation=99
    )
    evaluated = drive(TokenCache(config), half_bent)
    full = [indices is not None and len(indices) == 40 for indices in evaluated]
    # After two evaluations the error of a forecast is not known yet, so a third is full as well.
    assert full.index(False) == max(warmup, 3)


@pytest.mark.parametrize(("limit", "partial"), [(0.49, False), (0.5, True)])
def test_with_too_many_tokens_due_all_are_evaluated(limit: float, partial: bool) -> None:
    """The bent half of the tokens is due."""
    policy = TokenCache(TokenCacheConfig(0.001, full_above=limit))
    timesteps, state = straight(10)
    for step in range(3):
        assert policy.select(step, timesteps, state) is None
        v = half_bent(timesteps[step].item() / 1000)
        policy.observe(step, timesteps, state, {"latents": v})
    indices = policy.select(3, timesteps, state)
    assert (indices is not None and indices.tolist() == list(range(20, 40))) == partial
    assert (indices is None) != partial


def test_after_a_switch_of_guidance_earlier_error_rates_are_used() -> None:
    forecasts = TokenForecasts(torch.zeros(2, 1), 0.0)
    forecasts.update(torch.tensor([[1.0], [1.0]]), 0.1, None)
    forecasts.update(torch.tensor([[2.0], [4.0]]), 0.2, None)
    after = TokenForecasts(torch.zeros(2, 1), 0.5, previous=forecasts)
    assert after.expected_error(0.6).isinf().all(), "one evaluation makes no line"
    after.update(torch.zeros(2, 1), 0.6, None)
    first, second = after.expected_error(0.7).tolist()
    # Errors 0 and 2 over an rms norm of sqrt((2^2 + 4^2) / 2), at 0.1 and 0.2 from the samples.
    assert first == pytest.approx(0, abs=1e-5)
    assert second == pytest.approx(2 / 10**0.5, rel=1e-4)


def test_the_larger_of_a_tokens_latest_two_error_rates_counts() -> None:
    forecasts = TokenForecasts(torch.zeros(1, 1), 0.0)
    for position, value in ((0.1, 1.0), (0.2, 4.0), (0.3, 7.0)):  # off by 2, then by 0
        forecasts.update(torch.tensor([[value]]), position, None)
    assert forecasts.expected_error(0.4).item() == pytest.approx(2 / 4, rel=1e-4)
    forecasts.update(torch.tensor([[10.0]]), 0.4, None)
    assert forecasts.expected_error(0.5).item() == pytest.approx(0, abs=1e-4)


def test_the_default_settings() -> None:
    assert TokenCacheConfig() == TokenCacheConfig(
        tolerance=0.02,
        calibration=None,
        warmup=2,
        carving_share=0.5,
        full_above=0.7,
        max_skips=3,
        max_extrapolation=2.0,
    )
