"""The training loop on a problem with a known answer."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.train import run_directory
from loci.train.run_directory import RunDirectory
from loci.train.trainer import (
    Step,
    Task,
    Trainer,
    TrainerConfig,
    moving_average,
    step_generator,
)
from tests.train.killing import killed

pytest.importorskip("accelerate", reason="the extra `train` is not installed")

CONFIG = TrainerConfig(
    steps=20,
    learning_rate=0.1,
    warmup_steps=1,
    ema_decay=0.5,
    log_seconds=0,
    evaluate_seconds=1e9,
    checkpoint_seconds=0,
    precision="float32",
)


class Line(Task[nn.Linear]):
    """Learns y = 3 x from noisy points; counts its batches."""

    def __init__(self, trainer: Trainer, broken_after: int | None = None) -> None:
        self.model = nn.Linear(1, 1).to(trainer.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1.0)
        self.broken_after, self.batches, self.rates = broken_after, 0, []

    def batch(self, step: Step) -> tuple[Tensor, Tensor]:
        self.batches += 1
        x = torch.randn(16, 1, generator=step.rng)
        return x, 3 * x + 0.1 * torch.randn(16, 1, generator=step.rng)

    def loss(
        self, model: Callable[..., Tensor], batch: tuple[Tensor, Tensor], step: Step
    ) -> dict[str, Tensor]:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        x, y = batch
        error = (model(x) - y).square().mean()
        if self.broken_after == step.number:
            return {"loss": error * float("nan")}
        return {"loss": error, "double": 2 * error}

    def evaluate(self, model: nn.Linear, run: RunDirectory) -> dict[str, float]:
        assert not model.training
        return {"slope": model.weight.item()}

    def save(self, model: nn.Linear, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "model.pt")

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]


def trained(config: TrainerConfig, **options: Any) -> tuple[nn.Linear, Line]:
    trainer = Trainer(config)
    task = Line(trainer, **options)
    return trainer.fit(task), task


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_it_descends_logs_and_saves(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path, steps=60)
    model, task = trained(config)
    assert model.weight.item() == pytest.approx(3, abs=0.3)
    assert not model.training
    log = lines(tmp_path)
    assert [line["step"] for line in log] == [*range(1, 61), 60]
    assert log[-1]["slope"] == pytest.approx(model.weight.item(), abs=1e-5)
    assert log[0]["double"] == pytest.approx(2 * log[0]["loss"], rel=1e-4)
    assert log[30]["rate"] == pytest.approx(config.rate(30, 0.5), abs=1e-6)
    assert task.rates == [config.rate(step, step / 60) for step in range(60)]
    saved = torch.load(tmp_path / "final" / "model.pt", weights_only=True)
    assert torch.equal(saved["weight"], model.weight)


def test_time_before_the_first_step_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(run_directory.time, "monotonic", lambda: now)
    trainer = Trainer(replace(CONFIG, out=tmp_path, steps=2))
    task = Line(trainer)
    now = 1000.0
    trainer.fit(task)
    assert {line["seconds"] for line in lines(tmp_path)} == {0.0}


def test_evaluations_are_of_the_average(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path, evaluate_seconds=0, ema_decay=0.9)
    model, task = trained(config)
    slopes = [line["slope"] for line in lines(tmp_path) if "slope" in line]
    assert len(slopes) == 21, "one after every step, and the final one"
    assert slopes[-1] == pytest.approx(model.weight.item(), abs=1e-5)
    assert abs(slopes[-1] - task.model.weight.item()) > 1e-3


def test_a_killed_run_ends_as_if_it_had_never_been_killed(tmp_path: Path) -> None:
    whole, task = trained(replace(CONFIG, out=tmp_path / "whole"))
    with killed(after=7):
        trained(replace(CONFIG, out=tmp_path / "run"))
    assert not (tmp_path / "run" / "final").exists()
    torch.rand(5)  # the global generator takes no part
    resumed, again = trained(replace(CONFIG, out=tmp_path / "run"))
    assert torch.equal(resumed.weight, whole.weight)
    assert again.batches == task.batches == 20
    logs = [[line["loss"] for line in lines(tmp_path / n)[:-1]] for n in ("whole", "run")]
    assert logs[0] == logs[1]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = trained(replace(CONFIG, out=tmp_path))
    again, task = trained(replace(CONFIG, out=tmp_path))
    assert torch.equal(first.weight, again.weight)
    assert task.rates == []


def test_a_loss_that_is_no_number_stops_the_run_before_the_step(tmp_path: Path) -> None:
    with pytest.raises(LociError, match=r"the loss is nan after step 5, not a number"):
        trained(replace(CONFIG, out=tmp_path), broken_after=5)
    assert not (tmp_path / "final").exists()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["clock"]["step"] == 5
    assert state["state"]["model"]["weight"].isfinite().all()
    resumed, _ = trained(replace(CONFIG, out=tmp_path))
    whole, _ = trained(replace(CONFIG, out=tmp_path / "whole"))
    assert torch.equal(resumed.weight, whole.weight)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """Plain descent moves by the rate times the norm, which is cut."""
    trainer = Trainer(replace(CONFIG, out=tmp_path, steps=1, max_grad_norm=0.01))
    task = Line(trainer)
    task.optimizer = torch.optim.SGD(task.model.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten() for p in task.model.parameters()])
    trainer.fit(task)
    after = torch.cat([p.detach().flatten() for p in task.model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01 * 0.1, rel=1e-3)


def test_minutes_are_the_budget_unless_steps_are() -> None:
    assert TrainerConfig(steps=10).progress(5, seconds=1e6) == 0.5
    assert TrainerConfig(minutes=2).progress(10**6, seconds=30) == 0.25
    assert TrainerConfig(minutes=1).progress(0, seconds=61) == 1


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_ends(minutes: float) -> None:
    with pytest.raises(LociError, match="--minutes: .*, expected a number greater than 0"):
        TrainerConfig(minutes=minutes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "--steps: 0, expected at least 1"),
        ({"batch_size": 0}, "--batch-size: 0, expected at least 1"),
        ({"hold_fraction": 1.0}, "--hold-fraction: 1.0, expected a share of the budget below 1"),
        ({"seed": -1}, "--seed: -1, expected a whole number from 0 to"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LociError, match=message):
        TrainerConfig(**wrong)


def test_the_rate_warms_up_holds_and_falls_to_its_floor() -> None:
    config = TrainerConfig(
        learning_rate=2.0, warmup_steps=10, final_fraction=0.1, hold_fraction=0.6
    )
    assert config.rate(0, 0) == pytest.approx(0.2)
    assert config.rate(4, 0) == pytest.approx(1.0)
    assert config.rate(9, 0) == config.rate(100, 0.3) == config.rate(100, 0.6) == 2.0
    assert config.rate(100, 0.8) == pytest.approx(2 * 0.55), "halfway down a cosine"
    assert config.rate(100, 1) == pytest.approx(0.2)
    assert replace(config, hold_fraction=0.0).rate(100, 0.5) == pytest.approx(2 * 0.55)


class Counted(nn.Module):
    """A weight, and a buffer of whole numbers."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("count", torch.tensor(0))

    def become(self, value: float) -> None:
        nn.init.constant_(self.weight, value)
        self.count += 1


def test_the_decay_of_the_average_warms_up() -> None:
    """After n updates it is (1 + n) / (10 + n) or the decay asked for, whichever is less."""
    for decay in (0.3, 0.999):
        model, expected = Counted(), 0.0
        average = moving_average(model, decay)
        for update in range(1, 7):
            model.become(float(update))
            average.update_parameters(model)
            now = min(decay, (1 + update) / (10 + update))
            expected = now * expected + (1 - now) * update
            state = average.state_dict()
            assert state["module.weight"].item() == pytest.approx(expected)
            assert state["module.count"].item() == update, "what is no float is copied"


def test_the_average_is_restored_and_needs_no_gradient() -> None:
    model = Counted()
    average = moving_average(model, decay=0.5)
    model.become(1.0)
    average.update_parameters(model)
    other = moving_average(Counted(), decay=0.5)
    other.load_state_dict(average.state_dict())
    model.become(2.0)
    for one in (average, other):
        one.update_parameters(model)
    states = average.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(p.requires_grad for p in average.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_random_numbers_depend_on_seed_step_and_rank() -> None:
    def draw(*key: int) -> tuple[float, ...]:
        return tuple(torch.rand(3, generator=step_generator(*key)).tolist())

    keys = [(0, 5), (0, 6), (0, 5, 1), (1, 5), (0, 5, 2)]
    assert draw(0, 5) == draw(0, 5) == draw(0, 5, 0)
    assert len({draw(*key) for key in keys}) == len(keys)


def test_products_are_narrow_and_everything_else_is_not(tmp_path: Path) -> None:
    """Weights, gradients, the optimiser's state and what a model returns stay in float32."""
    seen: list[torch.dtype] = []

    class Watched(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            output = super().forward(input)
            seen.append(output.dtype)
            return output

    class Narrow(Line):
        def __init__(self, trainer: Trainer) -> None:
            super().__init__(trainer)
            self.model = Watched(1, 1)
            self.optimizer = torch.optim.Adam(self.model.parameters())

        def loss(
            self, model: Callable[..., Tensor], batch: tuple[Tensor, Tensor], step: Step
        ) -> dict[str, Tensor]:
            assert model(batch[0]).dtype is torch.float32
            return super().loss(model, batch, step)

    for precision, expected in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        seen.clear()
        config = replace(CONFIG, steps=1, out=tmp_path / precision, precision=precision)
        trainer = Trainer(config)
        model = trainer.fit(Narrow(trainer))
        assert set(seen) == {expected}
        assert model.weight.dtype is torch.float32
