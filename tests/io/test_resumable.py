"""Folders that are written in several goes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loci.errors import LociError
from loci.io.resumable import unfinished_folder
from loci.io.weights import read_tensors

PARTS = {name: {"x": torch.full((8,), float(n))} for n, name in enumerate(("a", "b", "c"))}
KILLED = """
import os, signal, sys, torch
from pathlib import Path
from loci.io.resumable import unfinished_folder
with unfinished_folder(sys.argv[1]) as unfinished:
    unfinished.write("a", {"x": torch.zeros(8)}, Path(sys.argv[2]))
    kill = lambda count: os.kill(os.getpid(), signal.SIGKILL)
    unfinished.write("b", {"x": torch.ones(8)}, Path(sys.argv[2]), kill)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(b"weights")
    return tmp_path / "source"


def written(out: Path, source: Path, stop: str = "") -> list[bool]:
    """Which files were there already."""
    found = []
    with unfinished_folder(out) as unfinished:
        for name, tensors in PARTS.items():
            if name == stop:
                raise KeyboardInterrupt
            found.append(unfinished.write(name, tensors, source))
    return found


def test_a_stopped_run_is_continued(tmp_path: Path, source: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "out", source, "c")
    assert not (tmp_path / "out").exists()
    assert written(tmp_path / "out", source) == [True, True, False]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "source"}


def test_what_another_source_gave_is_written_again(tmp_path: Path, source: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "out", source, "c")
    source.write_bytes(b"other weights")
    assert written(tmp_path / "out", source) == [False, False, False]


def test_a_damaged_file_is_written_again(tmp_path: Path, source: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "out", source, "c")
    part = tmp_path / ".out.unfinished" / "b"
    part.write_bytes(part.read_bytes()[:-4])
    assert written(tmp_path / "out", source) == [True, False, False]


def test_an_error_leaves_nothing(tmp_path: Path, source: Path) -> None:
    with (
        pytest.raises(LociError, match="not finite: x"),
        unfinished_folder(tmp_path / "out") as unfinished,
    ):
        unfinished.write("a", {"x": torch.zeros(2)}, source)
        unfinished.write("b", {"x": torch.full((2,), torch.inf)}, source)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_run_is_continued(tmp_path: Path, source: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(source)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / ".out.unfinished").glob(".b.*.part"))) == 1
    assert written(tmp_path / "out", source) == [True, False, False]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    assert torch.equal(read_tensors_of(tmp_path / "out" / "c"), PARTS["c"]["x"])


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path, source: Path) -> None:
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / ".process").write_text(str(os.getppid()))
    with pytest.raises(LociError, match="is being written by another process"):
        written(tmp_path / "out", source)


def read_tensors_of(path: Path) -> torch.Tensor:
    named = path.with_suffix(".safetensors")
    path.rename(named)
    return read_tensors(named)["x"]
