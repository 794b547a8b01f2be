"""The clock, the log and the checkpoints of a training run."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from loci.errors import LociError
from loci.train.run_directory import RunDirectory


class Part:
    """Something that is saved with a run."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert not run.resume({"part": Part(0)})
    for _ in range(3):
        run.tick()
    run.log(loss=1.0)
    run.save({"part": Part(torch.ones(2))})
    run.tick()
    run.log(loss=math.pi)
    again, part = RunDirectory(tmp_path), Part(None)
    assert again.resume({"part": part})
    assert torch.equal(part.value, torch.ones(2))
    assert again.step == 3
    assert 0 < again.seconds <= run.seconds
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3], "what came after the checkpoint is forgotten"


def test_a_line_of_the_log_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training whose output goes into a file or a pipe can be followed."""
    seen = []
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(stream, "flush", lambda: seen.append(True))
    monkeypatch.setattr("sys.stdout", stream)
    RunDirectory(tmp_path).log(loss=1.0)
    assert seen


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.tick()
    run.save({"part": Part(1)})
    with pytest.raises(Exception, match="pickle"):
        run.save({"part": Part(lambda: None)})
    assert RunDirectory(tmp_path).resume({"part": Part(0)})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_checkpoints_that_cannot_be_resumed_are_named(tmp_path: Path) -> None:
    run, path = RunDirectory(tmp_path), tmp_path / "checkpoint.pt"
    path.write_bytes(b"half")
    with pytest.raises(LociError, match="checkpoint.pt: not a readable"):
        run.resume({})
    # As runs wrote them before there was one trainer.
    torch.save({"clock": {"step": 1}, "rng": torch.get_rng_state(), "state": {}}, path)
    with pytest.raises(LociError, match="checkpoint.pt: a checkpoint of another version"):
        run.resume({})
    run.save({"model": nn.Linear(2, 2)})
    for other in (nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(LociError, match="checkpoint.pt: does not fit"):
            run.resume({"model": other})
    with pytest.raises(LociError, match="checkpoint.pt: does not fit"):
        run.resume({"task": Part(0)})


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"format": 2, "state": Malicious()}, tmp_path / "checkpoint.pt")
    with pytest.raises(LociError, match="not a readable"):
        RunDirectory(tmp_path).resume({})
    assert not (tmp_path / "touched").exists()


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
    run.save({"part": Part(1)})
    run.sheet("sheet", [torch.zeros(1, 3, 4, 4)])
    assert not (tmp_path / "run").exists()


def test_sheet(tmp_path: Path) -> None:
    rows = [torch.full((3, 3, 4, 5), 1.0), torch.full((2, 3, 4, 5), -1.0)]
    RunDirectory(tmp_path).sheet("sheet", rows)
    picture = Image.open(tmp_path / "sheet.png")
    assert picture.size == (15, 8)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((0, 7)) == (0, 0, 0)
