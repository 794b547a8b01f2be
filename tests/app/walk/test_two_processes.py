"""`loci walk` under torchrun: a prompt of guidance on each of two processes."""

import os
import signal
import socket
import subprocess
import sys
import time
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


def walk(*launcher: str, name: str, frames: int) -> list[str]:
    command = [sys.executable, *launcher, "-m", "loci.cli", "walk", "picture.png"]
    command += ["--model", "model", "--size", "64x64", "--steps", "2", "--frames", str(frames)]
    return [*command, "--dtype", "float32", "--out", f"{name}.mp4", "--save", f"{name}.loci"]


def run(folder: Path, *launcher: str, name: str) -> str:
    command = walk(*launcher, name=name, frames=4)
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
    torch.testing.assert_close(two.newest_latent, one.newest_latent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("rank", "number"),
    [(0, signal.SIGINT), (1, signal.SIGTERM), (1, signal.SIGKILL)],
)
def test_a_signal_to_one_process_ends_both(folder: Path, rank: int, number: int) -> None:
    """And the walk is saved, once, as far as it came. Without torchrun, which would end the other
    one for us, or kill it before it has saved."""
    name = f"ended-{rank}-{number}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [*walk(name=name, frames=8000), "--autosave", "1"]
    processes = []
    for own in "01":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **places}
        environment |= {"RANK": own, "LOCAL_RANK": own}
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
            )
        )
    saved, deadline = folder / f"{name}.loci", time.monotonic() + 300
    while not saved.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[rank].send_signal(number)
    try:
        first, second = (process.communicate(timeout=60)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert "stopped after" in first
    assert "continue with: loci walk --resume" in first
    assert "Traceback" not in first + second
    assert processes[1].returncode == (-9 if number == signal.SIGKILL else 0)
    assert len(list(folder.glob(f"{name}*.loci"))) == 1
    world = World.from_pretrained(folder / "model")
    world.config = replace(world.config, size=(64, 64))
    assert 1 < load_walk(saved, world).frame_count < 8001


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
