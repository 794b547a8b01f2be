import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loci.flow import (
    TIMESTEPS,
    State,
    add_noise,
    batched_guidance,
    check_temperature,
    euler_timesteps,
    flow_loss,
    interval_guidance,
    log_snr_timesteps,
    rescaled_times,
    sample,
    sample_levels,
    shifted,
    shortened,
)
from loci.world.config import SamplingConfig

PUBLISHED = (
    "1000 994.93 989.54 983.80 977.68 971.13 964.12 956.58 948.46 939.68 930.17 919.83 908.54 "
    "896.17 882.55 867.50 850.75 832.02 810.93 787.00 759.63 727.99 691.03 647.26 594.62 530.10 "
    "449.19 344.71 204.62 6.958"
)


def test_the_published_grid() -> None:
    expected = torch.tensor([float(t) for t in PUBLISHED.split()])
    assert torch.allclose(euler_timesteps(30, 7.0), expected, atol=6e-3)


def test_an_even_grid_spends_no_step_on_the_last_thousandth() -> None:
    assert euler_timesteps(4, 1.0, uniform=True).tolist() == pytest.approx([1000, 750, 500, 250])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        euler_timesteps(0, 1.0)


def test_even_log_snr_after_pure_noise() -> None:
    times = log_snr_timesteps(5, -4.0, 4.0)
    assert times[0] == TIMESTEPS
    level = times[1:].double() / TIMESTEPS
    assert ((1 - level) / level).log().tolist() == pytest.approx([-3, -1, 1, 3], abs=1e-4)
    assert log_snr_timesteps(1, -4.0, 4.0).tolist() == [TIMESTEPS]
    for steps, low, high in ((0, -1.0, 1.0), (3, 1.0, 1.0)):
        with pytest.raises(ValueError, match="expected 1 or more, ascending"):
            log_snr_timesteps(steps, low, high)


def test_shift_keeps_the_ends_and_the_order() -> None:
    levels = torch.linspace(0, 1, 11)
    levels_near_noise = shifted(levels, 3.0)
    assert levels_near_noise[0] == 0
    assert levels_near_noise[-1] == 1
    assert bool((levels_near_noise.diff() > 0).all())
    assert torch.allclose(shifted(shifted(levels, 3.0), 1 / 3.0), levels, atol=1e-6)


def test_training_levels_lie_between_data_and_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    for mean in (None, 0.8):
        levels = sample_levels(1000, 1.0, generator, mean)
        assert 0 < levels.min() < levels.max() < 1
    assert sample_levels(4000, 1.0, generator, 0.8).mean() > 0.6


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_a_straight_path_is_integrated_exactly(steps: int) -> None:
    """With the true velocity of a straight path, any number of Euler steps ends at the data."""
    data, noise = torch.randn(2, 3), torch.randn(2, 3)
    seen = []

    def velocity(state: State, timestep: Tensor) -> State:
        expected = add_noise(data, noise, timestep / 1000)
        assert torch.allclose(state["x"], expected, atol=1e-5)
        seen.append(timestep)
        return {"x": noise - data}

    result = sample(velocity, {"x": noise}, euler_timesteps(steps, 7.0))
    assert torch.allclose(result["x"], data, atol=1e-5)
    assert len(seen) == steps
    assert seen[0].shape == (2,)


def test_second_order_steps_are_nearer_to_a_curved_path() -> None:
    """Data and noise are normal, of deviations 2 and 1: the true velocity and end are known."""
    start = torch.tensor([1.5])

    def velocity(state: State, timestep: Tensor) -> State:
        s = timestep / 1000
        variance = 4 * (1 - s) ** 2 + s**2
        data = 4 * (1 - s) / variance * state["x"]
        noise = s / variance * state["x"]
        return {"x": noise - data}

    def end(steps: int, order: int) -> float:
        times = euler_timesteps(steps, 2.0, uniform=True)
        return sample(velocity, {"x": start}, times, order=order)["x"].item()

    exact = 2 * start.item()
    errors = {order: abs(end(8, order) - exact) for order in (1, 2)}
    assert errors[2] < 0.5 * errors[1]
    assert abs(end(64, 2) - exact) < 0.02 * exact


def test_second_order_steps_are_those_of_algorithm_2() -> None:
    """DPM-Solver++(2M) in its own terms, alpha = 1 - s and sigma = s, with any predicted data."""
    levels, data, start = [0.9, 0.7, 0.4, 0.1], [1.0, -2.0, 0.5, 3.0], 1.5
    states: list[float] = []

    def velocity(state: State, timestep: Tensor) -> State:
        states.append(state["x"].item())
        return {"x": (state["x"] - data[len(states) - 1]) / (timestep / 1000)}

    times = 1000 * torch.tensor(levels, dtype=torch.float64)
    end = sample(velocity, {"x": torch.tensor([start])}, times, order=2)["x"].item()
    x, expected = start, [start]
    log_snr = [math.log((1 - s) / s) for s in levels]
    for i in range(3):
        step = log_snr[i + 1] - log_snr[i]
        guess = data[i]
        if i > 0:
            ratio = (log_snr[i] - log_snr[i - 1]) / step
            guess += (data[i] - data[i - 1]) / (2 * ratio)
        sigma, alpha = levels[i + 1] / levels[i], 1 - levels[i + 1]
        x = sigma * x - alpha * (math.exp(-step) - 1) * guess
        expected.append(x)
    assert states == pytest.approx(expected, rel=1e-5)
    assert end == pytest.approx(data[-1], rel=1e-5), "the last step ends at the predicted data"


@pytest.mark.parametrize(("share", "steps"), [(1.0, 30), (0.5, 15), (0.55, 16), (1e-6, 1)])
def test_a_share_of_the_steps_is_at_least_one(share: float, steps: int) -> None:
    config = SamplingConfig(steps=30, shift=3.0)
    assert shortened(config, share) == replace(config, steps=steps)


@pytest.mark.parametrize(("order", "end"), [(0, 0.0), (3, 0.0), (2, 1.0)])
def test_other_orders_are_refused(order: int, end: float) -> None:
    with pytest.raises(ValueError, match=f"order {order}"):
        sample(lambda x, _: x, {"x": torch.zeros(1)}, torch.ones(1), end=end, order=order)


def test_a_policy_can_skip_evaluations_and_observes_the_others() -> None:
    class EverySecond:
        def __init__(self) -> None:
            self.last: State = {}
            self.heard: list[int] = []

        def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
            return self.last if step % 2 else None

        def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
            self.last = velocity
            self.heard.append(step)

    calls = []

    def velocity(state: State, timestep: Tensor) -> State:
        calls.append(1)
        return {"x": torch.ones(1, 1)}

    policy = EverySecond()
    sample(velocity, {"x": torch.zeros(1, 1)}, euler_timesteps(5, 1.0), policy=policy)
    assert len(calls) == 3
    assert policy.heard == [0, 2, 4]


def test_batched_guidance_extrapolates_from_the_negative_row() -> None:
    def velocity(state: State, timestep: Tensor) -> State:
        assert timestep.shape == (2,)
        return {"x": torch.tensor([[3.0], [1.0]])}

    step = batched_guidance(velocity, 5.0)
    assert step({"x": torch.zeros(1, 1)}, torch.zeros(1))["x"].item() == 1 + 5 * (3 - 1)


def test_a_rescaled_grid_runs_from_noise_to_data() -> None:
    expected = [0, 1 / 22, 0.1, 1 / 6, 0.25, 5 / 14, 0.5, 0.7, 1]
    times = rescaled_times(8, 3.0, torch.float64)
    assert times.dtype == torch.float64
    assert times.tolist() == pytest.approx(expected, abs=1e-12)
    # The same curve as `shift`, seen from the other end.
    assert torch.allclose(1 - times, shifted(1 - rescaled_times(8, 1.0, torch.float64), 3.0))
    for uniform in (0, 1):
        assert torch.equal(rescaled_times(4, uniform), torch.tensor([0, 0.25, 0.5, 0.75, 1]))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        rescaled_times(0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_timesteps_may_ascend_and_end_at_one(dtype: torch.dtype) -> None:
    """In the convention of SAM 3D Objects: time from 0 to 1, velocity data - noise."""
    data = {"a": torch.randn(2, 3), "b": torch.randn(2, 1)}
    noise = {name: torch.randn_like(x) for name, x in data.items()}

    def velocity(state: State, timestep: Tensor) -> State:
        assert timestep.dtype == torch.float32
        return {name: data[name] - noise[name] for name in data}

    times = rescaled_times(5, 3.0, dtype)
    result = sample(velocity, noise, times[:-1] * 1000, end=1.0)
    for name in data:
        assert torch.allclose(result[name], data[name], atol=1e-5)


@pytest.mark.parametrize(("steps", "rescale", "guided_steps"), [(25, 3.0, 19), (25, 1.0, 13)])
def test_guidance_within_an_interval_saves_evaluations(
    steps: int, rescale: float, guided_steps: int
) -> None:
    """The published runs take 44 and 38 evaluations for 25 steps."""
    calls = {"conditional": 0, "unconditional": 0}

    def evaluation(kind: str, value: float):
        def velocity(state: State, timestep: Tensor) -> State:
            calls[kind] += 1
            return {name: torch.full_like(x, value) for name, x in state.items()}

        return velocity

    velocity = interval_guidance(
        evaluation("conditional", 3.0), evaluation("unconditional", 1.0), 7.0, (0, 500)
    )
    state = {"a": torch.zeros(1, 2), "b": torch.zeros(1, 1)}
    sample(velocity, state, rescaled_times(steps, rescale, torch.float64)[:-1] * 1000, end=1.0)
    assert calls == {"conditional": steps, "unconditional": guided_steps}
    for name, v in velocity(state, torch.tensor([500.0])).items():
        assert (v == 8 * 3 - 7 * 1).all(), name
    assert (velocity(state, torch.tensor([500.1]))["a"] == 3).all()


def test_guidance_of_strength_zero_is_one_evaluation() -> None:
    def never(state: State, timestep: Tensor) -> State:
        raise AssertionError("the unconditional velocity is not needed")

    velocity = interval_guidance(lambda state, t: state, never, 0.0, (0, 500))
    assert velocity({"a": torch.ones(1)}, torch.zeros(1))["a"] == 1


def test_the_loss_is_zero_only_for_the_true_velocity() -> None:
    data, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    assert flow_loss(noise - data, data, noise).tolist() == [0, 0, 0]
    assert bool((flow_loss(data - noise, data, noise) > 0).all())


@pytest.mark.parametrize(("every", "evaluated"), [(1, 4), (2, 2), (3, 2), (100, 1)])
def test_guidance_reuses_its_last_difference(every: int, evaluated: int) -> None:
    """The difference grows with the timestep, so it shows at which step it was evaluated."""
    calls = {"conditional": 0, "unconditional": 0}

    def conditional(state: State, timestep: Tensor) -> State:
        calls["conditional"] += 1
        return {"x": state["x"] + timestep[0]}

    def unconditional(state: State, timestep: Tensor) -> State:
        calls["unconditional"] += 1
        return {"x": state["x"]}

    times = [100.0, 200.0, 300.0, 400.0, 600.0, 700.0]  # the last two are not guided
    state = {"x": torch.randn(1, 5)}
    velocity = interval_guidance(conditional, unconditional, 3.0, (0.0, 500.0), every)
    for step, t in enumerate(times):
        difference = times[step - step % every] if step < 4 else 0.0
        expected = state["x"] + t + 3 * difference
        torch.testing.assert_close(velocity(state, torch.tensor([t]))["x"], expected)
    assert calls == {"conditional": 6, "unconditional": evaluated}


def test_the_loss_is_the_mean_squared_error_of_each_sample() -> None:
    data, noise = torch.zeros(2, 2, 2), torch.ones(2, 2, 2)
    velocity = torch.stack([torch.full((2, 2), 4.0), torch.tensor([[1.0, 1.0], [1.0, 3.0]])])
    assert flow_loss(velocity, data, noise).tolist() == [9, 1]
    assert flow_loss(velocity.bfloat16(), data, noise).dtype == torch.float32


def test_noise_levels_are_drawn_as_told() -> None:
    seeded = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    uniform, normal = torch.rand(500, generator=seeded()), torch.randn(500, generator=seeded())
    assert torch.equal(sample_levels(500, 1.0, seeded()), uniform)
    assert torch.equal(sample_levels(500, 3.0, seeded()), shifted(uniform, 3.0))
    levels = sample_levels(500, 3.0, seeded(), logit_mean=0.8)
    assert torch.allclose(levels, shifted(torch.sigmoid(normal + 0.8), 3.0))


def test_every_step_is_announced_with_its_state() -> None:
    seen: list[tuple[int, float]] = []

    def velocity(state: State, timestep: Tensor) -> State:
        return {"x": torch.ones(1)}

    def on_step(step: int, state: State) -> None:
        seen.append((step, state["x"].item()))

    timesteps = euler_timesteps(4, 1.0, uniform=True)
    end = sample(velocity, {"x": torch.ones(1)}, timesteps, on_step=on_step)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert [x for _, x in seen] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert end["x"].item() == pytest.approx(0)


@pytest.mark.parametrize("wrong", [-0.1, float("inf"), float("nan")])
def test_a_temperature_is_a_finite_number_from_zero_on(wrong: float) -> None:
    check_temperature(0.0)
    check_temperature(2.5)
    with pytest.raises(ValueError, match="temperature"):
        check_temperature(wrong)


class FirstRow:
    """Evaluates the first token at every step but the first, all tokens there."""

    attends_to_cached = False

    def propose(self, step, timesteps, state):
        return None

    def select(self, step, timesteps, state):
        return torch.tensor([0]) if step else None

    def fill(self, step, timesteps, state, indices, part):
        return {"x": self.latest.index_copy(0, indices, part["x"])}

    def observe(self, step, timesteps, state, velocity):
        self.latest = velocity["x"]


@pytest.mark.parametrize("has_partial", [True, False])
def test_a_token_policy_selects_where_tokens_can_be_evaluated_in_part(has_partial: bool) -> None:
    calls: list[str] = []

    def velocity(state: State, timestep: Tensor) -> State:
        calls.append("all")
        assert timestep.shape == (2,)
        return {"x": torch.full((2, 1), float(len(calls)))}

    def partial(state: State, timestep: Tensor, indices: Tensor) -> State:
        calls.append("some")
        assert len(state["x"]) == len(timestep) == 2
        return {"x": torch.full((len(indices), 1), float(len(calls)))}

    start = {"x": torch.zeros(2, 1)}
    timesteps = euler_timesteps(2, 1.0, uniform=True)
    given = partial if has_partial else None
    end = sample(velocity, start, timesteps, policy=FirstRow(), partial=given)
    assert calls == ["all", "some" if has_partial else "all"]
    # Each step is half of the way; the second token keeps the first velocity if it is left out.
    assert end["x"][:, 0].tolist() == [-1.5, -1.0 if has_partial else -1.5]


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_any_strength_above_zero_guides(strength: float) -> None:
    conditional, unconditional = (lambda state, t, v=v: {"x": torch.tensor(v)} for v in (3.0, 1.0))
    velocity = interval_guidance(conditional, unconditional, strength)
    assert velocity({}, torch.zeros(1))["x"].item() == 3 + 2 * strength
