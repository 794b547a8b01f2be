import pytest
import torch

from loci.caching.token_cache import TokenCache, TokenCacheConfig, TokenForecasts, cheapest_tokens
from loci.flow import State
from tests.caching.toy import INTERVAL, Toy, error, run, same, times, tokens


class Uneven(Toy):
    """Tokens from the 20th on bend ten times as much."""

    def __call__(self, state: State, timestep):
        v = super().__call__(state, timestep)
        if len(v["latents"]) == 40:
            bend = torch.sin(12 * timestep[0] / 1000) * (torch.arange(40) >= 20)
            v = {"latents": v["latents"] + bend[:, None]}
        return v

    def partial(self, state: State, timestep, rows):
        self.parts.append(len(rows))
        return {"latents": self(state, timestep)["latents"][rows]}


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
        def partial(self, state, timestep, rows):
            chosen.append(rows)
            return super().partial(state, timestep, rows)

    ours, toy = run(policy, Witnessed(), tokens())
    assert chosen
    bending = sum(int((rows >= 20).sum()) for rows in chosen)
    calm = sum(int((rows < 20).sum()) for rows in chosen)
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
