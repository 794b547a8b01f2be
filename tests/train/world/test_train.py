from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loci.errors import LociError
from loci.train.trainer import LearningRate, TrainingBudget
from loci.train.world.batches import Recipe
from loci.train.world.train import TrainingStage, WorldTraining, fit_world
from loci.world.transformer import WorldTransformer
from tests.train.world.test_memory_tokens import wandering
from tests.world.models import reckoned

pytest.importorskip("accelerate", reason="training needs the extra train")

CONFIG = WorldTraining(
    model=reckoned(),
    stages=(
        TrainingStage(0.5, (Recipe((1, 0, 0)),)),
        TrainingStage(1.0, (Recipe((1, 1, 0)), Recipe((0, 0, 0))), keep_windows=True),
    ),
    budget=TrainingBudget(steps=6),
    rate=LearningRate(peak=1e-2, warmup_steps=1),
    batch=2,
    log_seconds=0.0,
    checkpoint_seconds=1e9,
)


def weights(model: WorldTransformer) -> torch.Tensor:
    return torch.cat([p.flatten() for p in model.parameters()])


def test_training_learns_and_saves(tmp_path: Path) -> None:
    walks = wandering()
    config = replace(CONFIG, budget=TrainingBudget(steps=12))
    model = fit_world(walks, None, tmp_path / "run", config)
    loaded = WorldTransformer.from_pretrained(tmp_path / "run" / "final")
    assert torch.equal(weights(loaded), weights(model))
    torch.manual_seed(config.seed)
    fresh = WorldTransformer(config.model)
    assert not torch.allclose(weights(fresh), weights(model))
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(log) == 12


def test_windows_are_kept_as_they_were_and_merges_learn_on(tmp_path: Path) -> None:
    """With a past of the model's own making among the batches."""
    stages = (CONFIG.stages[0], replace(CONFIG.stages[1], own=0.9))
    config = replace(CONFIG, stages=stages, budget=TrainingBudget(steps=8), ema=0.0)
    seen: list[dict[str, torch.Tensor]] = []
    run = tmp_path / "run"

    def look(step: int, loss: float) -> None:
        state = torch.load(run / "checkpoint.pt", weights_only=True)["state"]["model"]
        seen.append({name: tensor.clone() for name, tensor in state.items()})

    fit_world(wandering(), None, run, replace(config, checkpoint_seconds=0.0), on_step=look)
    before, after = seen[4], seen[7]  # both in the second stage
    assert torch.equal(
        before["latent_encoder.conv_in.weight"], after["latent_encoder.conv_in.weight"]
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "latent_encoder.panorama.layers.0.attn.o.weight" in changed
    assert not any(
        name.startswith("latent_encoder.") and ".panorama." not in name for name in changed
    )


def test_a_killed_run_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    walks = wandering()
    whole = fit_world(walks, None, tmp_path / "whole", CONFIG)

    class Killed(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        if step == 4:
            raise Killed

    config = replace(CONFIG, checkpoint_seconds=0.0)
    with pytest.raises(Killed):
        fit_world(walks, None, tmp_path / "run", config, on_step=kill)
    resumed = fit_world(walks, None, tmp_path / "run", config)
    assert torch.allclose(weights(resumed), weights(whole), atol=1e-6)


def test_it_begins_with_what_another_model_has_learned(tmp_path: Path) -> None:
    torch.manual_seed(3)
    start = WorldTransformer(CONFIG.model)
    start.initialise(gate=1.0)
    still = replace(CONFIG, budget=TrainingBudget(steps=1), rate=LearningRate(peak=1e-7))
    model = fit_world(wandering(), None, tmp_path / "run", still, start)
    assert torch.allclose(weights(model), weights(start), atol=1e-5)
    other = WorldTransformer(replace(CONFIG.model, layers=CONFIG.model.layers + 1))
    with pytest.raises(LociError, match="to begin with"):
        fit_world(wandering(), None, tmp_path / "other", still, other)


def test_every_weight_gets_a_gradient() -> None:
    import numpy as np

    from loci.train.world.batches import draw
    from loci.train.world.train import Objective

    model = WorldTransformer(reckoned())
    model.initialise(gate=1.0)
    # What begins as zeros hides the gradients of what stands before it.
    torch.nn.init.normal_(model.head.head.weight, std=0.02)
    for weight in model.latent_encoder.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    batch = draw(wandering(), Recipe((2, 1, 0)), 2, np.random.default_rng(0))
    Objective(model, CONFIG)(batch, 0.1).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
