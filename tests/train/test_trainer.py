"""The clock, the rate, the average and the checkpoints that trainers share."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from loci.errors import LociError
from loci.train.trainer import (
    Ema,
    LearningRate,
    RunDirectory,
    TrainingBudget,
    means,
    step_generator,
)


def test_minutes_count_before_steps() -> None:
    assert TrainingBudget(steps=10).fraction(5, seconds=1e6) == 0.5
    assert TrainingBudget(steps=10, minutes=2).fraction(10**6, seconds=30) == 0.25
    assert TrainingBudget(minutes=1).fraction(0, seconds=61) == 1


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_ends(minutes: float) -> None:
    with pytest.raises(LociError, match="--minutes: .*, expected a number greater than 0"):
        TrainingBudget(minutes=minutes)


def test_rate_warms_up_and_falls_to_its_floor() -> None:
    rate = LearningRate(peak=1.0, warmup_steps=10, floor=0.1)
    assert rate.at(0, 0) == pytest.approx(0.1)
    assert rate.at(9, 0) == pytest.approx(1.0)
    assert rate.at(100, 0.5) == pytest.approx(0.55)
    assert rate.at(100, 1) == pytest.approx(0.1)


def test_groups_may_scale_the_rate() -> None:
    parameters = [{"params": [nn.Parameter(torch.ones(1))], "scale": s} for s in (1.0, 0.5)]
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    LearningRate(peak=2.0, warmup_steps=1).apply(optimizer, 5, 0)
    assert [group["lr"] for group in optimizer.param_groups] == [2.0, 1.0]


def test_average_converges_and_is_restored() -> None:
    model = nn.Linear(1, 1)
    ema = Ema(model, decay=0.5)
    nn.init.ones_(model.weight)
    for _ in range(30):
        ema.update(model)
    target = nn.Linear(1, 1)
    ema.copy_to(target)
    torch.testing.assert_close(target.weight, model.weight)
    other = Ema(nn.Linear(1, 1))
    other.load_state_dict(ema.state_dict())
    assert other.updates == 30
    assert torch.equal(other.average["weight"], ema.average["weight"])


def test_random_numbers_depend_on_step_and_rank_only() -> None:
    def draw(*key: int) -> list[float]:
        return torch.rand(3, generator=step_generator(*key)).tolist()

    assert draw(0, 5) == draw(0, 5)
    assert draw(0, 5) != draw(0, 6) != draw(0, 6, 1) != draw(1, 6, 1)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.resume() is None
    for _ in range(3):
        run.tick(0.5)
    run.log(loss=1.0)
    run.save(weights={"w": torch.ones(2)})
    expected = torch.rand(2)
    run.tick(0.5)
    run.log(loss=math.pi)
    again = RunDirectory(tmp_path)
    state = again.resume()
    assert state is not None
    assert torch.equal(state["weights"]["w"], torch.ones(2))
    assert again.step == 3
    assert 0 < again.seconds <= run.seconds
    assert torch.equal(torch.rand(2), expected)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3], "what came after the checkpoint is forgotten"


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.tick(0.5)
    run.save(value=torch.ones(1))
    with pytest.raises(Exception, match="pickle"):
        run.save(value=lambda: None)
    state = RunDirectory(tmp_path).resume()
    assert state is not None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(LociError, match="checkpoint.pt: not a readable"):
        RunDirectory(tmp_path).resume()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LociError, match="run directory"):
        RunDirectory(tmp_path / "file" / "run")


def test_due_by_the_clock(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert not run.due("log", 10)
    run.seconds = 11
    assert run.due("log", 10)
    assert not run.due("log", 10)
    assert run.due("sheet", 10)


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run", writes=False)
    run.log(loss=1.0)
    run.save(value=torch.ones(1))
    run.sheet("sheet", [torch.zeros(1, 3, 4, 4)])
    assert not (tmp_path / "run").exists()


def test_sheet(tmp_path: Path) -> None:
    rows = [torch.full((3, 3, 4, 5), 1.0), torch.full((2, 3, 4, 5), -1.0)]
    RunDirectory(tmp_path).sheet("sheet", rows)
    picture = Image.open(tmp_path / "sheet.png")
    assert picture.size == (15, 8)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((0, 7)) == (0, 0, 0)


def test_means_are_over_those_that_have_a_name() -> None:
    assert means([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.tick(0.5)
    with pytest.raises(LociError, match=r"run: the loss is nan after step 1, not a number"):
        run.tick(float("nan"))
    assert run.step == 1
