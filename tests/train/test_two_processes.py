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
from tests.train.world.test_memory_tokens import wandering
from tests.train.world.test_train import CONFIG, weights
from loci.train.trainer import Budget
from loci.train.world.train import fit_world

config = replace(CONFIG, budget=Budget(steps=3))
model = fit_world(wandering(length=80), None, Path(sys.argv[1]) / "run", config)
rank = torch.distributed.get_rank()
torch.save(weights(model), Path(sys.argv[1]) / f"{rank}.pt")
"""


def test_both_processes_end_with_the_same_weights(tmp_path: Path) -> None:
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
    assert torch.equal(first, second)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3
