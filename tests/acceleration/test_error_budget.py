import math

import pytest
import torch

from loci.acceleration.error_budget import (
    ErrorBudget,
    ErrorGrowth,
    ErrorScale,
    fit_error_scale,
    relative_error,
    remainder,
)
from tests.acceleration.toy import times


def test_the_available_budget_grows_with_the_run_and_shrinks_with_spending() -> None:
    budget, grid = ErrorBudget(0.1), times(10, 1.0)
    shares = [budget.available(step, grid) for step in range(10)]
    assert shares == pytest.approx([0.01 * (i + 1) for i in range(10)])
    budget.spend(0.04)
    assert budget.available(9, grid) == pytest.approx(0.06)
    assert budget.allows(0.06 - 1e-9, 9, grid)
    assert not budget.allows(0.061, 9, grid)


def test_nothing_is_allowed_without_tolerance() -> None:
    assert not ErrorBudget(0.0).allows(0.0, 5, times())
    with pytest.raises(ValueError, match="negative"):
        ErrorBudget(-0.1)


def test_error_growth_is_that_of_a_parabola() -> None:
    """A line through x^2 misses it by the product of the distances."""
    growth = ErrorGrowth()
    assert growth.expected([0.0, 1.0], 2.0) == math.inf
    line = lambda at: at  # noqa: E731 - through (0, 0) and (1, 1)
    growth.observe(abs(2.0**2 - line(2.0)), [0.0, 1.0], 2.0)
    assert growth.expected([0.0, 1.0], 3.0) == pytest.approx(3.0**2 - line(3.0))
    assert remainder([5.0, 0.0, 1.0], 3.0) == 6


def test_the_larger_of_two_measurements_counts() -> None:
    growth = ErrorGrowth()
    for error in (1.0, 9.0, 2.0):
        growth.observe(error, [0.0], 1.0)
    assert growth.expected([0.0], 1.0) == 9
    growth.observe(2.0, [0.0], 1.0)
    assert growth.expected([0.0], 1.0) == 2


def test_small_tensors_count_as_much_as_large_ones() -> None:
    truth = {"shape": torch.ones(1000), "scale": torch.full((1,), 2.0)}
    guess = {"shape": torch.ones(1000), "scale": torch.full((1,), 3.0)}
    assert relative_error(guess, truth) == 0.5


def test_calibration_covers_most_runs() -> None:
    predicted = [0.01 * 1.2**i for i in range(20)]
    true = [3 * p**1.5 * (1 + 0.3 * math.sin(7 * i)) for i, p in enumerate(predicted)]
    fitted = fit_error_scale(predicted, true, coverage=0.9)
    below = sum(t <= fitted.true(p) * (1 + 1e-9) for p, t in zip(predicted, true, strict=True))
    assert below == 18
    assert fitted.power == pytest.approx(1.5, abs=0.1)
    assert fitted.predicted(fitted.true(0.05)) == pytest.approx(0.05)
    assert ErrorBudget(0.1, ErrorScale(2.0)).tolerance == pytest.approx(0.05)


def test_calibration_needs_runs_that_differ() -> None:
    with pytest.raises(ValueError, match="at least two"):
        fit_error_scale([0.1, 0.1], [0.2, 0.3])
    with pytest.raises(ValueError, match="at least two"):
        fit_error_scale([0.0, 0.1], [0.2, 0.3])


def test_two_runs_are_enough() -> None:
    fitted = fit_error_scale([0.01, 0.1], [0.03, 0.3])
    assert (fitted.factor, fitted.power) == (pytest.approx(3), pytest.approx(1))
    # A power below 0.1 is raised to it, so that a larger tolerance allows more.
    assert fit_error_scale([0.01, 0.1], [0.3, 0.03]).power == 0.1


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, math.inf)])
def test_a_scale_is_finite_and_positive(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        ErrorScale(*wrong)
    assert ErrorScale(2.0, 2.0).predicted(0.0) == ErrorScale(2.0, 2.0).true(0.0) == 0
    assert ErrorScale(2.0, 2.0).true(3.0) == 18
    assert ErrorScale(2.0, 2.0).predicted(18.0) == 3


def test_a_cost_that_is_exactly_available_is_allowed() -> None:
    budget, grid = ErrorBudget(0.5), times(2, 1.0)
    assert budget.allows(0.25, 0, grid)
    assert not budget.allows(0.2500001, 0, grid)
