import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loci.acceleration.forecast import (
    Anchored,
    Forecast,
    Sample,
    Taylor,
    VelocityHistory,
    differences,
)
from loci.acceleration.published.forecasts import DynamicModes, Hermite, hermite_powers

ALL: list[Forecast] = [
    Taylor(0),
    Taylor(1),
    Taylor(2),
    Hermite(),
    Anchored(Taylor()),
    DynamicModes(),
]


def along(places: list[float], *rates: float) -> list[Sample]:
    """Samples of a sum of exponentials, each in a direction of its own."""
    directions = torch.eye(6)[: len(rates)] + 0.1
    return [
        Sample(p, sum((d * math.exp(r * p) for d, r in zip(directions, rates, strict=True)),
                      torch.zeros(6)))
        for p in places
    ]  # fmt: skip


@pytest.mark.parametrize("forecast", ALL)
def test_one_sample_is_held(forecast: Forecast) -> None:
    sample = Sample(0.3, torch.tensor([1.0, -2.0]))
    assert torch.allclose(forecast([sample], 0.5), sample.velocity)


@pytest.mark.parametrize("forecast", ALL)
def test_what_stands_still_stays(forecast: Forecast) -> None:
    still = [Sample(p, torch.full((2, 3), 4.0)) for p in (0.0, 0.1, 0.25, 0.3)]
    assert torch.allclose(forecast(still, 0.45), torch.full((2, 3), 4.0), atol=1e-4)


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_straight_line_is_followed_whatever_the_spacing(a, b, gap, ahead: float) -> None:
    line = [Sample(p, torch.tensor(a + b * p, dtype=torch.float64)) for p in (0.0, gap)]
    at = gap + ahead
    assert Taylor(1)(line, at).item() == pytest.approx(a + b * at, abs=1e-6)
    # The line back to front: a run may count its levels down.
    mirrored = [Sample(-p, v) for p, v in line]
    assert Taylor(1)(mirrored, -at).item() == pytest.approx(a + b * at, abs=1e-6)


def test_differences_of_equal_steps() -> None:
    squares = [Sample(p, torch.tensor(float(p * p))) for p in (1, 2, 3, 4)]
    assert [f.item() for f in differences(squares)] == [16, 7, 2, 0]
    assert Taylor(2)(squares, 5).item() == 16 + 7 + 1
    assert Taylor(1)(squares, 5).item() == 23


def test_anchored_lies_between_the_latest_and_the_forecast() -> None:
    line = [Sample(0, torch.tensor(1.0)), Sample(1, torch.tensor(2.0))]
    assert Anchored(Taylor(), 0.0)(line, 3).item() == 2
    assert Anchored(Taylor(), 1.0)(line, 3).item() == 4
    assert Anchored(Taylor(), 0.25)(line, 3).item() == 2.5


def test_hermite_polynomials() -> None:
    x, s = 1.7, 0.5
    expected = [1, 2 * s * x, 4 * (s * x) ** 2 - 2, 8 * (s * x) ** 3 - 12 * s * x]
    ours = hermite_powers(x, 4, s)
    assert ours == pytest.approx([s**j * value for j, value in enumerate(expected)])


def test_hermite_does_not_depend_on_the_unit_of_positions() -> None:
    samples = along([0.0, 0.1, 0.3], 1.0, -2.0)
    scaled = [Sample(1000 * p, v) for p, v in samples]
    assert torch.allclose(Hermite()(samples, 0.4), Hermite()(scaled, 400.0), atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_dynamic_modes_follow_exponentials_where_lines_do_not(sign: int) -> None:
    places = [0.0, 0.05, 0.15, 0.2]
    truth = along([0.4], -6.0, -1.0)[0].velocity
    samples = [Sample(sign * p, v) for p, v in along(places, -6.0, -1.0)]
    modes = (DynamicModes(4)(samples, sign * 0.4) - truth).norm()
    line = (Taylor(1)(samples, sign * 0.4) - truth).norm()
    assert modes < 0.1 * line


def test_dynamic_modes_do_not_explode() -> None:
    samples = along([0.0, 0.1, 0.2, 0.3], 25.0, -1.0)
    ahead = DynamicModes(4)(samples, 0.6)
    assert ahead.isfinite().all()
    assert ahead.norm() < 10 * samples[-1].velocity.norm()


def test_the_default_forecast_is_a_line_and_half_of_it_where_damped() -> None:
    assert Taylor() == Taylor(1)
    assert Anchored(Taylor()) == Anchored(Taylor(1), 0.5)
    assert [f.window for f in (Taylor(0), Taylor(2), Anchored(Taylor(2)))] == [1, 3, 3]


def test_a_history_keeps_what_its_forecasts_use() -> None:
    history = VelocityHistory(Taylor(0), {"line": Taylor(1)})
    assert history.window == 2
    for position in (0.0, 1.0, 3.0):
        velocity = torch.tensor(position**2)
        history.add(position, {"line": velocity, "held": velocity})
    assert history.positions == [1, 3]
    forecast = history.forecast(4.0)
    assert forecast["line"].item() == 9 + (9 - 1) / 2
    assert forecast["held"].item() == 9
    history.clear()
    assert len(history) == 0
