"""Training runs unchanged on two processes, with batches that leave parts of the model idle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="training needs the extra train")

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from tests.train.slat.test_vae import TINY
from tests.train.toy_objects import toy_set
from tests.train.world.test_memory_tokens import wandering
from tests.train.world.test_train import CONFIG, weights
from loci.train.slat.vae import fit_slat_vae
from loci.train.world import train as world

drawn = []
draw_batch = world.draw_batch

def noted(*arguments, **options):
    batch = draw_batch(*arguments, **options)
    drawn.append((batch.walks.tolist(), batch.now.tolist()))
    return batch

world.draw_batch = noted
out = Path(sys.argv[1])
model = world.fit_world(wandering(length=80), None, replace(CONFIG, steps=3, out=out / "world"))
toys = toy_set(3)
codec = fit_slat_vae(toys, toys, replace(TINY, steps=2, out=out / "slat"))
rank = torch.distributed.get_rank()
state = {"world": weights(model), "slat": weights(codec), "drawn": drawn}
torch.save(state, out / f"{rank}.pt")
"""


def test_processes_share_weights_and_nothing_else(tmp_path: Path) -> None:
    """Each draws batches of its own; gradients are averaged; one folder is written, by one."""
    import torch

    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(tmp_path / "script.py"), str(tmp_path), str(Path(__file__).parents[2])),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["world"], second["world"])
    assert torch.equal(first["slat"], second["slat"])
    assert len(first["drawn"]) == len(second["drawn"]) == 3
    for one, other in zip(first["drawn"], second["drawn"], strict=True):
        assert one != other, "every process draws batches of its own"
    for run, steps in (("world", [1, 2, 3]), ("slat", [1, 2, 2])):
        log = (tmp_path / run / "log.jsonl").read_text().splitlines()
        assert [line.split(",")[0] for line in log] == [f'{{"step": {n}' for n in steps]
