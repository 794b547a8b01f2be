"""Trains the world model, on short histories first, then on long ones that return to places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from loci.actions import UNCERTAIN
from loci.codecs.frame import FrameCodec
from loci.data.latents import LatentWalks, join_walks, latent_walks
from loci.data.recordings import load_recordings
from loci.errors import LociError
from loci.flow import TIMESTEPS, add_noise, flow_loss, sample_levels
from loci.io.config_files import CONFIG_NAME, load_config
from loci.io.models import find_model
from loci.io.weight_checks import rename_tensors
from loci.train.optim import MuonWithAdam
from loci.train.run_directory import RunDirectory
from loci.train.shards import whole
from loci.train.trainer import Step, Task, Trainer
from loci.train.world.batches import (
    WorldBatch,
    draw_batch,
)
from loci.train.world.config import WorldTraining
from loci.train.world.degrade import fade
from loci.train.world.evaluate import RecallEvaluation, evaluate_recall
from loci.train.world.export import CODEC, save_settings
from loci.train.world.memory_tokens import (
    WindowTokenCache,
    batch_actions,
    batch_poses,
    compress_history,
)
from loci.train.world.recording_settings import (
    check_same_form,
    check_size,
    with_actions_of,
    with_fov,
    with_recording_settings,
)
from loci.train.world.self_forcing import BatchSource
from loci.world.conditioning import Actions
from loci.world.config import WorldConfig
from loci.world.transformer import WorldTransformer

HIDDEN = (
    "blocks.",
    "down_block",
    "mid_block",
    "panorama.layers.",
    "time_projection.",
)
"""Whose matrices Muon trains."""
HIGH_NOISE_LOGIT_MEAN, AT_ONE = 4.0, 0.2
DEFAULT_CODEC = Path("runs/codec/final")


def train_world(config: WorldTraining) -> WorldTransformer:
    """Train on `data/train`, evaluate on `data/test`, save the averaged model to `out/final`.

    Encoded walks are kept under `out/../latents`. A run that was stopped goes on from its last
    checkpoint.

    Raises:
        LociError: on unusable data, or when `init_from` has another configuration.
    """
    folder, start = None, None
    if config.init_from is not None:
        folder = find_model(config.init_from, CONFIG_NAME)
        start = WorldTransformer.from_pretrained(folder / "transformer").float()
    codec_folder = config.codec or (DEFAULT_CODEC if folder is None else folder / "codec")
    codec = FrameCodec.from_pretrained(codec_folder)
    if codec.latent_channels != config.model.latent_channels:
        raise LociError(
            f"{codec_folder}: latents of {codec.latent_channels} channels, and the model is made "
            f"for {config.model.latent_channels}"
        )
    train, test = (load_recordings(config.data / split) for split in ("train", "test"))
    check_size(train, codec, config.model, config.data)
    world_config = with_recording_settings(config.world, train)
    if folder is not None:
        former = load_config(folder / CONFIG_NAME, WorldConfig)
        world_config = with_actions_of(former, world_config)
    model = with_fov(config.model, train.info.fov_degrees)
    config = replace(config, world=world_config, model=model)
    config.check_walks(train.frames.shape[1])
    trainer = Trainer(config)
    codec.to(trainer.device)
    scale, cache = config.world.action_scale, config.out.parent / "latents"
    count = min(config.train_walks, len(train.frames))
    walks = latent_walks(train, codec, cache, count, scale)
    more = (check_same_form(load_recordings(folder), train, folder) for folder in config.more_data)
    more = [latent_walks(m, codec, cache, len(m.frames), scale) for m in more]
    walks = join_walks([walks, *more])
    count = min(config.evaluation_walks, len(test.frames))
    held_out = latent_walks(test, codec, cache, count, scale)
    evaluation = RecallEvaluation.prepare(held_out, test.frames, codec)
    return trainer.fit(WorldTask(config, walks, evaluation, trainer, start)).transformer


def fit_world(
    walks: LatentWalks,
    evaluation: RecallEvaluation | None,
    config: WorldTraining,
    start: WorldTransformer | None = None,
) -> WorldTransformer:
    """`train_world` on walks already encoded."""
    config.check_walks(walks.length)
    trainer = Trainer(config)
    return trainer.fit(WorldTask(config, walks, evaluation, trainer, start)).transformer


class WorldInputs(NamedTuple):
    """A batch, the noise augmentation of its history, and its cached level-one tokens, if any."""

    batch: WorldBatch
    noise: float
    tokens: WindowTokenCache | None


class WorldTask(Task["WorldObjective"]):
    """Examples from recorded walks, stage by stage, and the world model that learns from them."""

    def __init__(
        self,
        config: WorldTraining,
        walks: LatentWalks,
        evaluation: RecallEvaluation | None,
        trainer: Trainer,
        start: WorldTransformer | None = None,
    ) -> None:
        self.config, self.evaluation = config, evaluation
        transformer = WorldTransformer(config.model)
        transformer.init_weights(gate_bias=1.0)
        if start is not None:
            rotary = config.model.pose_rotary
            if with_fov(start.config, rotary and rotary.fov) != config.model:
                raise LociError(f"{config.init_from}: {start.config}, expected {config.model}")
            transformer.load_state_dict(start.state_dict())
        self.model = WorldObjective(transformer, config).to(trainer.device)
        self.optimizer = MuonWithAdam(
            transformer, HIDDEN, config.learning_rate, dtype=trainer.dtype
        )
        self.source = BatchSource(walks, config.world, config.seed, config.faded)
        self.last_rollout = 0.0

    def batch(self, step: Step) -> WorldInputs:
        config, source = self.config, self.source
        stage, transformer = config.stage(step.progress), self.model.transformer
        # The same on all processes: they hold batches of one size, and the same rollouts.
        shared = np.random.default_rng([config.seed, step.number])
        spec = stage.histories[shared.integers(len(stage.histories))]
        if stage.freeze_windows and source.tokens is None:
            self._freeze_windows(step.average)
            with whole(self.model):
                source.cache_tokens(transformer.memory_encoder, stage.noise)
        waited = step.seconds - self.last_rollout
        if stage.self_forcing and (source.rollout is None or waited >= config.self_forcing_seconds):
            with whole(self.model):
                source.roll_out(transformer, stage.noise, shared)
            self.last_rollout = step.seconds
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=step.rng)))
        chosen = source.choose(spec, stage.self_forcing, shared)
        batch = draw_batch(
            chosen.walks,
            spec,
            config.batch_size,
            rng,
            stage.revisits,
            stage.moves,
            chosen.within,
        )
        return WorldInputs(batch, stage.noise, chosen.tokens)

    def _freeze_windows(self, average: nn.Module) -> None:
        """Give the weights that make level-one tokens their average; cached tokens give them no
        gradient from now on."""
        encoder, averaged = (
            self.model.transformer.memory_encoder,
            average.get_submodule("transformer.memory_encoder").state_dict(),
        )
        with torch.no_grad():
            for name, tensor in encoder.state_dict().items():
                if not name.startswith("panorama."):
                    tensor.copy_(averaged[name])

    def loss(
        self, model: Callable[..., Tensor], batch: WorldInputs, step: Step
    ) -> dict[str, Tensor]:
        return {"loss": model(*batch, step.rng)}

    def evaluate(self, model: WorldObjective, run: RunDirectory) -> dict[str, float]:
        if self.evaluation is None:
            return {}
        return evaluate_recall(model.transformer, self.evaluation, run)

    def save(self, model: WorldObjective, folder: Path) -> None:
        model.transformer.save_pretrained(folder)
        frame = None
        if self.evaluation is not None:
            frame = self.evaluation.example
            self.evaluation.codec.save_pretrained(folder / CODEC)
        save_settings(folder, self.config.world, frame)

    def state_dict(self) -> dict[str, Any]:
        return {"last_rollout": self.last_rollout, "source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_rollout = state["last_rollout"]
        self.source.load_state_dict(state["source"])


class WorldObjective(nn.Module):
    """A world model and its loss, as one module that can be run on several processes."""

    def __init__(self, transformer: WorldTransformer, config: WorldTraining) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(rename_former_tensors)
        self.transformer = transformer
        self.config = config

    def forward(
        self,
        batch: WorldBatch,
        history_noise: float,
        tokens: WindowTokenCache | None,
        rng: torch.Generator,
    ) -> Tensor:
        """Weighted mean squared error of the velocity.

        Args:
            batch: on the CPU; goes to the model's device here, since poses stay.
            history_noise: largest deviation of the noise on the history and the local frame.
            tokens: cached level-one tokens of the batch's walks, instead of encoding them.
            rng: on the CPU.
        """
        transformer = self.transformer
        device = transformer.patch_embedding.weight.device
        size = batch.local.shape[0]
        deviation = history_noise * torch.rand(size, generator=rng)
        # In bfloat16 oneDNN's gradient of small 3-D convolutions is now and then no number (torch
        # 2.13).
        with torch.autocast(device.type, enabled=False):
            memory = compress_history(
                transformer.memory_encoder, batch, deviation, tokens, rng, self.config.faded
            )
        local_noise = torch.randn(batch.local.shape, generator=rng)
        local = fade(batch.local, self.config.faded / 2, rng)
        local = local + deviation.view(-1, 1, 1, 1) * local_noise
        context = transformer.context(
            memory.tokens,
            local[:, :, None].to(device),
            self._dropped(batch_actions(batch, device), rng),
            poses=batch_poses(batch, memory),
        )
        data = batch.target.transpose(1, 2).to(device)
        level = self._levels(size, rng).to(device)
        noise = torch.randn(data.shape, generator=rng).to(device)
        velocity = transformer.velocity(add_noise(data, noise, level), level * TIMESTEPS, context)
        error = flow_loss(velocity, data, noise)
        # The network predicts the data, so near s = 0 its velocity is an error divided by s.
        weight = level.square() / (level.square() + 0.05)
        return (weight * error).mean()

    def _dropped(self, actions: Actions | None, rng: torch.Generator) -> Actions | None:
        """With all actions of some examples uncertain."""
        share = self.config.label_dropout
        if actions is None or not share:
            return actions
        dropped = (torch.rand(len(actions.move), generator=rng) < share).to(actions.move.device)
        return Actions(*(ids.masked_fill(dropped[:, None], UNCERTAIN) for ids in actions))

    def _levels(self, size: int, rng: torch.Generator) -> Tensor:
        """Noise levels: logit-normal, and a share of them near 1, a fifth of these at 1."""
        config = self.config
        level = sample_levels(size, 1.0, rng, config.logit_mean)
        high = sample_levels(size, 1.0, rng, HIGH_NOISE_LOGIT_MEAN)
        high = torch.where(torch.rand(size, generator=rng) < AT_ONE, torch.ones(size), high)
        return torch.where(torch.rand(size, generator=rng) < config.high_noise, high, level)


def rename_former_tensors(
    module: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """So that trainings go on whose checkpoints call the transformer `world`."""
    rename_tensors(tensors, prefix, {"world.": "transformer."})
