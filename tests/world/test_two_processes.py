"""Guidance on two processes, a prompt on each."""

import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys
import torch
import torch.distributed as dist

sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from loci.world.config import SamplingConfig
from loci.world.prompt_group import PromptGroup
from loci.world.sampling import sample_latents
from tests.world.models import randomised, published_like
from tests.world.test_two_processes import chunk

dist.init_process_group("gloo")
model = randomised(published_like())
noise, context = chunk(model)
sampling, rows = SamplingConfig(steps=3, guidance_scale=4.0), []
velocity = model.token_velocity
model.token_velocity = lambda noisy, *rest, **part: (
    rows.append(len(noisy)) or velocity(noisy, *rest, **part)
)
shared = sample_latents(model, noise, context, sampling, group=PromptGroup(dist.group.WORLD))
own = list(rows)
alone = sample_latents(model, noise, context, sampling)
state = {"shared": shared, "alone": alone, "rows": torch.tensor(own)}
torch.save(state, f"{sys.argv[1]}/{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


def chunk(model):
    """Noise and the context of a prompt and a negative one."""
    from loci.world.conditioning import Actions, Prompt

    generator = torch.Generator().manual_seed(0)
    local = torch.randn(1, 16, 1, 4, 6, generator=generator).expand(2, -1, -1, -1, -1)
    ids = torch.randint(0, 6, (1, 9), generator=generator)
    prompt = Prompt(torch.randn(2, 5, 24, generator=generator), torch.ones(2, 5))
    with torch.no_grad():
        context = model.context(local, local, Actions(ids, ids), prompt)
    return torch.randn(1, 16, 3, 4, 6, generator=generator), context


def test_each_process_evaluates_one_prompt(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(tmp_path / "script.py"), str(tmp_path), str(Path(__file__).parents[2])),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["rows"].tolist() == second["rows"].tolist() == [1, 1, 1]
    assert torch.equal(first["shared"], second["shared"])
    torch.testing.assert_close(first["shared"], first["alone"], rtol=1e-5, atol=1e-5)
