"""Training on two processes, each of which holds a share of weights, average and optimiser."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="training needs the extra train")

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel

sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from loci.train.codec import fit_codec
from loci.train.optim import MuonWithAdam
from loci.train.world.train import fit_world
from tests.train import test_codec as codecs
from tests.train.killing import killed
from tests.train.world.test_memory_tokens import wandering
from tests.train.world.test_train import CONFIG, weights

held = {}

def own_bytes(tensors):
    local = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors]
    return sum(tensor.nbytes for tensor in local if tensor.ndim)

def noting(cls, name, find):
    inner = getattr(cls, name)
    def noted(self, *arguments):
        inner(self, *arguments)
        held.update(find(self, *arguments))
    setattr(cls, name, noted)

noting(AveragedModel, "update_parameters", lambda average, model: {
    "weights": own_bytes(model.parameters()), "average": own_bytes(average.module.parameters())
})
noting(MuonWithAdam, "step", lambda optimizer, *closure: {"optimizer": own_bytes(
    value for part in optimizer.parts for state in part.state.values() for value in state.values()
)})

out, bytes_held = Path(sys.argv[1]), {}
stages = (CONFIG.stages[0], replace(CONFIG.stages[1], self_forcing=0.5))
config = replace(CONFIG, stages=stages, learning_rate=1e-3)

def fit(name, shard):
    held.clear()
    model = fit_world(wandering(), None, replace(config, shard=shard, out=out / name))
    bytes_held[name] = dict(held)
    return weights(model)

found = {"plain": fit("plain", False), "sharded": fit("sharded", True)}
with killed(after=4):
    fit("killed", True)
found["killed"] = fit("killed", True)
with killed(after=2):
    fit("begun sharded", True)
found["begun sharded"] = fit("begun sharded", False)
frames = codecs.frames(40, 0), codecs.frames(8, 1)
codec = {
    name: codecs.weights(fit_codec(*frames, replace(codecs.TINY, shard=shard, out=out / name)))
    for name, shard in {"plain codec": False, "sharded codec": True}.items()
}
rank = torch.distributed.get_rank()
torch.save({"weights": found, "bytes": bytes_held, "codec": codec}, out / f"{rank}.pt")
"""


def test_sharded_training_ends_where_the_plain_one_does(tmp_path: Path) -> None:
    """With half of the bytes, also after it was killed; an unsharded one may go on with it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(tmp_path / "script.py"), str(tmp_path), str(Path(__file__).parents[2])),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        plain = found["weights"].pop("plain")
        for name, weights in found["weights"].items():
            # Muon makes directions of small gradients, and of their rounding.
            torch.testing.assert_close(weights, plain, rtol=0, atol=1e-4, msg=name)
        plain, sharded = found["codec"].values()
        torch.testing.assert_close(sharded, plain, rtol=0, atol=1e-4)
        for what, whole in found["bytes"]["plain"].items():
            assert 0.4 * whole < found["bytes"]["sharded"][what] < 0.6 * whole, what
