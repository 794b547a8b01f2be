"""`loci walk` under torchrun: a prompt of guidance on each of two processes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loci.app.walk.two_processes import is_second, silent_if_second
from loci.data.random_checkpoint import write_random_checkpoint
from loci.errors import LociError
from loci.world.walk_file import load_walk
from loci.world.world import World

pytest.importorskip("transformers", reason="the extra `text` is not installed")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two")
    write_random_checkpoint("infinite-world", made / "model")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(made / "picture.png")
    return made


def run(folder: Path, *launcher: str, name: str, more: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *launcher, "-m", "loci.cli", "walk", "picture.png"]
    command += ["--model", "model", "--size", "64x64", "--steps", "2", "--frames", "4"]
    command += ["--dtype", "float32", "--out", f"{name}.mp4", "--save", f"{name}.loci", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_walk_as_one(folder: Path) -> None:
    run(folder, name="one")
    said = run(folder, *TORCHRUN, name="two")
    assert said.count("4 frames in") == 1  # the second is silent
    assert "2 processes" in said
    assert not list(folder.glob("two-2*"))  # and writes nothing
    world = World.from_pretrained(folder / "model")
    world.config = replace(world.config, size=(64, 64))
    one, two = (load_walk(folder / f"{name}.loci", world) for name in ("one", "two"))
    torch.testing.assert_close(two.local, one.local, rtol=1e-4, atol=1e-4)


def test_another_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(LociError, match="3 processes"), silent_if_second():
        pass


def test_the_second_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with silent_if_second():
            print(is_second())
    assert capsys.readouterr().out == "False\n"
