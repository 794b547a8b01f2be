import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from loci.actions import UNCERTAIN
from loci.errors import LociError
from loci.train.run_directory import RunDirectory
from loci.train.world.batches import HistorySpec, draw_batch
from loci.train.world.config import CONFIGS, TrainingStage, WorldTraining, default_stages
from loci.train.world.memory_tokens import batch_poses, compress_history
from loci.train.world.recording_settings import with_fov
from loci.train.world.train import WorldObjective, fit_world
from loci.world.conditioning import Actions
from loci.world.transformer import WorldTransformer
from tests.train.killing import killed
from tests.train.world.test_memory_tokens import wandering
from tests.world.models import pose_rotary_config

pytest.importorskip("accelerate", reason="training needs the extra train")

CONFIG = WorldTraining(
    model=pose_rotary_config(),
    stages=(
        TrainingStage(0.5, (HistorySpec((1, 0, 0)),)),
        TrainingStage(1.0, (HistorySpec((1, 1, 0)), HistorySpec((0, 0, 0))), freeze_windows=True),
    ),
    steps=6,
    high_noise=0.1,
    learning_rate=1e-2,
    warmup_steps=1,
    final_fraction=0.01,
    hold_fraction=0.0,
    batch_size=2,
    precision="float32",
    log_seconds=0.0,
    checkpoint_seconds=1e9,
)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.flatten() for p in model.parameters()])


@torch.no_grad()
def velocity_error(model: WorldTransformer) -> float:
    """Mean squared error of the velocity noise - data, at a middle noise level, worked out anew."""
    batch = draw_batch(wandering(), HistorySpec((1, 0, 0)), 32, np.random.default_rng(5))
    memory = compress_history(model.memory_encoder, batch)
    assert batch.actions is not None
    actions = Actions(*batch.actions.unbind(-1))
    poses = batch_poses(batch, memory)
    context = model.context(memory.tokens, batch.local[:, :, None], actions, poses=poses)
    data = batch.target.transpose(1, 2)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(2))
    state = 0.4 * data + 0.6 * noise
    velocity = model.velocity(state, torch.full((len(data),), 600.0), context)
    return (velocity - (noise - data)).square().mean().item()


def test_training_lowers_the_error_and_saves(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, batch_size=4, out=tmp_path, learning_rate=3e-3)
    model = fit_world(wandering(), None, config)
    loaded = WorldTransformer.from_pretrained(tmp_path / "final")
    assert torch.equal(weights(loaded), weights(model))
    torch.manual_seed(config.seed)
    fresh = WorldTransformer(config.model)
    fresh.init_weights(gate_bias=1.0)
    assert velocity_error(model) < 0.95 * velocity_error(fresh)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 40
    assert min(losses) > 0
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


def test_frozen_windows_stay_and_merges_learn_on(tmp_path: Path) -> None:
    """With generated histories among the batches."""
    stages = (CONFIG.stages[0], replace(CONFIG.stages[1], self_forcing=0.9))
    config = replace(CONFIG, stages=stages, steps=8, ema_decay=0.0, out=tmp_path)
    seen: list[dict[str, torch.Tensor]] = []
    save = RunDirectory.save

    def look(run: RunDirectory, parts: dict) -> None:
        save(run, parts)
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["model"]
        seen.append({name.removeprefix("transformer."): tensor for name, tensor in state.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "save", look)
        fit_world(wandering(), None, replace(config, checkpoint_seconds=0.0))
    before, after = seen[4], seen[7]  # both in the second stage
    assert torch.equal(
        before["memory_encoder.conv_in.weight"], after["memory_encoder.conv_in.weight"]
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "memory_encoder.panorama.layers.0.attn.o.weight" in changed
    assert not any(
        name.startswith("memory_encoder.") and ".panorama." not in name for name in changed
    )


@pytest.mark.parametrize("after", [2, 4])
def test_a_killed_run_ends_where_the_whole_one_does(tmp_path: Path, after: int) -> None:
    """In either stage, with rollouts of the model among the batches."""
    stages = (CONFIG.stages[0], replace(CONFIG.stages[1], self_forcing=0.5))
    config = replace(CONFIG, stages=stages)
    whole = fit_world(wandering(), None, replace(config, out=tmp_path / "whole"))
    config = replace(config, checkpoint_seconds=0.0, out=tmp_path / "run")
    with killed(after=after):
        fit_world(wandering(), None, config)
    resumed = fit_world(wandering(), None, config)
    assert torch.allclose(weights(resumed), weights(whole), atol=1e-6)


def test_it_begins_with_what_another_model_has_learned(tmp_path: Path) -> None:
    torch.manual_seed(3)
    start = WorldTransformer(CONFIG.model)
    start.init_weights(gate_bias=1.0)
    still = replace(CONFIG, steps=1, learning_rate=1e-7, out=tmp_path / "run")
    model = fit_world(wandering(), None, still, start)
    assert torch.allclose(weights(model), weights(start), atol=1e-5)
    other = WorldTransformer(replace(CONFIG.model, blocks=CONFIG.model.blocks + 1))
    with pytest.raises(LociError, match="blocks=.*, expected TransformerConfig"):
        fit_world(wandering(), None, replace(still, out=tmp_path / "other"), other)


def test_some_examples_are_told_no_actions_at_all() -> None:
    actions = Actions(torch.full((400, 8), 3), torch.full((400, 8), 4))
    config = replace(CONFIG, label_dropout=0.25)
    objective = WorldObjective(WorldTransformer(CONFIG.model), config)
    rng = torch.Generator().manual_seed(0)
    dropped = objective._dropped(actions, rng)
    assert dropped is not None
    gone = (dropped.move == UNCERTAIN).all(dim=1)
    assert torch.equal(gone, (dropped.view == UNCERTAIN).all(dim=1))
    assert 60 < int(gone.sum()) < 140
    assert (dropped.move[~gone] == 3).all()
    assert (dropped.view[~gone] == 4).all()
    objective.config = CONFIG
    state = rng.get_state()
    assert objective._dropped(actions, rng) is actions
    assert torch.equal(rng.get_state(), state), "older runs draw the numbers that they drew"
    with pytest.raises(LociError, match=r"--label-dropout: 1\.0, expected a share below 1"):
        replace(CONFIG, label_dropout=1.0)


def test_the_first_weights_may_come_from_another_camera(tmp_path: Path) -> None:
    start = WorldTransformer(with_fov(CONFIG.model, 50.0))
    start.init_weights(gate_bias=1.0)
    still = replace(CONFIG, steps=1, learning_rate=1e-7, out=tmp_path / "run")
    model = fit_world(wandering(), None, still, start)
    assert torch.allclose(weights(model), weights(start), atol=1e-5)
    assert model.config == CONFIG.model


def test_walks_too_short_for_a_stage_are_refused_before_the_first_step(tmp_path: Path) -> None:
    long = TrainingStage(1.0, (HistorySpec((1, 0, 0)), HistorySpec((0, 0, 3), 2)))
    config = replace(CONFIG, stages=(CONFIG.stages[0], long), out=tmp_path / "run")
    message = r"walks of 200 frames are too short for stage 2 of 2: .* needs at least 209"
    with pytest.raises(LociError, match=message):
        fit_world(wandering(length=200), None, config)
    assert not (tmp_path / "run").exists()
    config.check_walks(209)
    forcing = replace(CONFIG, stages=(TrainingStage(1.0, (HistorySpec(()),), self_forcing=0.5),))
    with pytest.raises(LociError, match=r"60 frames are too short for self-forcing in stage 1"):
        forcing.check_walks(60)
    deep = replace(
        CONFIG, stages=(TrainingStage(1.0, (HistorySpec(budget=8, lengths=(64, 9000)),)),)
    )
    with pytest.raises(LociError, match=r"stage 1 of 1: .* in 8 tokens need levels beyond 4"):
        deep.check_walks(3000)


def test_a_spec_knows_the_shortest_walk_it_fits() -> None:
    specs = [spec for stage in default_stages() for spec in stage.histories]
    for spec in [*specs, HistorySpec((0, 0, 2), 3), HistorySpec(budget=12, lengths=(61, 500))]:
        walks = wandering(walks=1, length=spec.length)
        draw_batch(walks, spec, 1, np.random.default_rng(0))
        with pytest.raises(ValueError, match="does not fit"):
            draw_batch(
                wandering(walks=1, length=spec.length - 1), spec, 1, np.random.default_rng(0)
            )


def test_named_configurations_differ_in_how_memory_is_addressed() -> None:
    by_time, posed = CONFIGS["doom-time"].model, CONFIGS["doom"].model
    assert by_time != posed
    assert replace(CONFIGS["doom-time"], model=posed) == CONFIGS["doom"]


def test_every_weight_gets_a_gradient() -> None:
    model = WorldTransformer(pose_rotary_config())
    model.init_weights(gate_bias=1.0)
    # What begins as zeros hides the gradients of what stands before it.
    torch.nn.init.normal_(model.head.head.weight, std=0.02)
    for weight in model.memory_encoder.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    batch = draw_batch(wandering(), HistorySpec((2, 1, 0)), 2, np.random.default_rng(0))
    rng = torch.Generator().manual_seed(0)
    WorldObjective(model, CONFIG)(batch, 0.1, None, rng).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_share_of_the_noise_levels_lies_where_sampling_begins() -> None:
    model = WorldTransformer(CONFIG.model)
    rng = torch.Generator().manual_seed(0)
    high = WorldObjective(model, replace(CONFIG, high_noise=0.5))._levels(8000, rng)
    none = WorldObjective(model, replace(CONFIG, high_noise=0.0))._levels(8000, rng)
    assert (none < 1).all()
    assert (none > 0.95).float().mean() < 0.05
    assert 0.08 < (high == 1).float().mean() < 0.12
    assert 0.38 < (high > 0.95).float().mean() < 0.5


def test_checkpoints_with_the_former_name_of_the_transformer_load() -> None:
    old, new = (WorldObjective(WorldTransformer(CONFIG.model), CONFIG) for _ in range(2))
    average = torch.optim.swa_utils.AveragedModel(new)
    state = {name.replace("transformer.", "world.", 1): x for name, x in old.state_dict().items()}
    assert all(name.startswith("world.") for name in state)
    new.load_state_dict(dict(state))
    wrapped = {f"module.{name}": x for name, x in state.items()}
    average.load_state_dict({"n_averaged": average.n_averaged, **wrapped})
    for loaded in (new, average.module):
        for name, x in old.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], x)
