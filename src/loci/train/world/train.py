"""Training of the world model: short histories, then long ones, always revisiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from loci.actions import UNCERTAIN
from loci.codecs.frame import FrameCodec
from loci.data.latents import LatentWalks, latent_walks
from loci.data.recordings import Recordings, load_recordings
from loci.errors import LociError
from loci.flow import TIMESTEPS, add_noise, flow_loss, sample_levels
from loci.train.optim import MuonWithAdam
from loci.train.run_directory import RunDirectory
from loci.train.trainer import Step, Task, Trainer, TrainerConfig
from loci.train.world.batches import (
    HistorySpec,
    WorldBatch,
    draw_batch,
    local_frames,
    whole_history,
)
from loci.train.world.evaluate import RecallEvaluation, evaluate_recall
from loci.train.world.export import save_settings
from loci.train.world.memory_tokens import WindowTokenCache, batch_poses, compress_history
from loci.train.world.self_forcing import BatchSource, shortest_walk
from loci.world.conditioning import Actions
from loci.world.config import WorldConfig, doom_transformer, doom_world
from loci.world.transformer import TransformerConfig, WorldTransformer

HIDDEN = (
    "blocks.",
    "down_block",
    "mid_block",
    "panorama.layers.",
    "time_projection.",
)
"""Whose matrices Muon trains."""


@dataclass(frozen=True)
class TrainingStage:
    """What batches hold up to a share of the budget.

    Attributes:
        until: that share.
        histories: to choose from with equal chance.
        noise: largest deviation of the noise augmentation of the history.
        revisits: share of examples whose targets were seen and are out of sight.
        moves: share of examples chosen for a move.
        self_forcing: share of batches whose history the model generated itself.
        freeze_windows: level-one tokens are made once and cached, and the weights that make them
            stay as they are: a step takes half the time, and long histories cost little more than
            short ones. From one stage on, for all that follow.
    """

    until: float
    histories: tuple[HistorySpec, ...]
    noise: float = 0.2
    revisits: float = 0.6
    moves: float = 0.25
    self_forcing: float = 0.0
    freeze_windows: bool = False


def default_stages() -> tuple[TrainingStage, ...]:
    """Short histories with large turns; then merged tokens; then long histories."""
    short = tuple(
        HistorySpec((n, 0, 0), stride)
        for n, stride in ((2, 1), (4, 2), (4, 4), (6, 6), (6, 3), (0, 1))
    )
    merged = (
        HistorySpec((10, 0, 0), 1),
        HistorySpec((6, 0, 0), 3),
        HistorySpec((2, 4, 0), 1),
        HistorySpec((2, 6, 0), 4),
        HistorySpec((1, 8, 0), 2),
        HistorySpec((1, 2, 1), 2),
        HistorySpec((0, 0, 0), 1),
    )
    # The whole of a long history, as a walk will hold it; small budgets stand for longer ones.
    long = (
        HistorySpec(budget=20),
        HistorySpec(stride=3, budget=20, lengths=(256, 1200)),
        HistorySpec(stride=3, budget=20, lengths=(64, 320)),
        HistorySpec(stride=4, budget=12),
        HistorySpec((6, 3, 0), 3),
        HistorySpec((2, 0, 0), 1),
    )
    return (
        TrainingStage(0.35, short, noise=0.15),
        TrainingStage(0.6, merged, noise=0.2, freeze_windows=True),
        TrainingStage(
            1.0, long, noise=0.3, revisits=0.5, moves=0.3, self_forcing=0.3, freeze_windows=True
        ),
    )


@dataclass(frozen=True)
class WorldTraining(TrainerConfig):
    """How to train a world model on recordings of any environment.

    Attributes:
        codec: the trained codec, a folder or hub id.
        start: a model folder whose weights to begin with, such as src/loci/shipped/doom; without
            it, from nothing.
        model: sizes of the transformer and its memory encoder, and how memory is addressed.
        world: how the model is walked; size, frame rate and action scale come from the recordings.
        stages: what batches hold, one after the other.
        train_walks: most walks to train on.
        evaluation_walks: most held-out walks to evaluate on.
        logit_mean: of the logit-normal noise levels; above 0 prefers noise.
        self_forcing_seconds: of training, after which the model continues other walks.
    """

    out: Path = Path("runs/world")
    codec: Path = Path("runs/codec/final")
    start: Path | None = None
    model: TransformerConfig = field(default_factory=doom_transformer)
    world: WorldConfig = field(default_factory=doom_world)
    stages: tuple[TrainingStage, ...] = field(default_factory=default_stages)
    minutes: float = 90.0
    learning_rate: float = 8e-4
    floor: float = 0.02
    hold: float = 0.75
    train_walks: int = 320
    evaluation_walks: int = 24
    logit_mean: float = 0.8
    self_forcing_seconds: float = 480.0

    def stage(self, progress: float) -> TrainingStage:
        return next((s for s in self.stages if progress < s.until), self.stages[-1])

    def check_walks(self, length: int) -> None:
        """That walks of `length` latents are long enough for every stage.

        Raises:
            LociError: naming the stage and the lengths.
        """
        for number, stage in enumerate(self.stages, 1):
            name = f"stage {number} of {len(self.stages)}"
            for spec in stage.histories:
                if length < spec.length:
                    raise LociError(
                        f"walks of {length} frames are too short for {name}: {spec} needs at "
                        f"least {spec.length}"
                    )
                if spec.budget:
                    longest = local_frames(length, spec)[-1]
                    try:
                        whole_history(longest, spec.budget)
                    except ValueError as error:
                        raise LociError(f"walks of {length} frames, {name}: {error}") from error
            if stage.self_forcing and length < (least := shortest_walk(self.world)):
                raise LociError(
                    f"walks of {length} frames are too short for self-forcing in {name}, which "
                    f"needs at least {least}"
                )


CONFIGS = {
    "doom": WorldTraining(),
    "doom-time": WorldTraining(model=doom_transformer(False)),
}


def train_world(config: WorldTraining) -> WorldTransformer:
    """Train on `data/train`, evaluate on `data/test`, save the averaged model to `out/final`.

    Encoded walks are kept under `out/../latents`. A run that was stopped goes on from its last
    checkpoint.

    Raises:
        LociError: on unusable data, or when `start` has another configuration.
    """
    codec = FrameCodec.from_pretrained(config.codec)
    start = None
    if config.start is not None:
        start = WorldTransformer.from_pretrained(config.start / "transformer").float()
    train, test = (load_recordings(config.data / split) for split in ("train", "test"))
    config = replace(config, world=recorded_world(config.world, train))
    config.check_walks(train.frames.shape[1])
    trainer = Trainer(config)
    codec.to(trainer.device)
    scale, cache = config.world.action_scale, config.out.parent / "latents"
    count = min(config.train_walks, len(train.frames))
    walks = latent_walks(train, codec, cache, count, scale)
    count = min(config.evaluation_walks, len(test.frames))
    held_out = latent_walks(test, codec, cache, count, scale)
    evaluation = RecallEvaluation.prepare(held_out, test.frames, codec)
    return trainer.fit(WorldTask(config, walks, evaluation, trainer, start)).world


def recorded_world(world: WorldConfig, recordings: Recordings) -> WorldConfig:
    """How the model will be walked, with what the recordings say: the size of frames, their rate,
    the actions that occur, and what an action does."""
    info = recordings.info
    moves, views = (
        tuple(sorted(set(np.unique(recordings.actions[..., i]).tolist()) - {UNCERTAIN}))
        for i in range(2)
    )
    return replace(
        world,
        size=tuple(info.frame_size),
        fps=round(info.fps),
        moves=moves,
        views=views,
        action_scale=info.action_scale or world.action_scale,
    )


def fit_world(
    walks: LatentWalks,
    evaluation: RecallEvaluation | None,
    config: WorldTraining,
    start: WorldTransformer | None = None,
) -> WorldTransformer:
    """`train_world` on walks already encoded."""
    config.check_walks(walks.length)
    trainer = Trainer(config)
    return trainer.fit(WorldTask(config, walks, evaluation, trainer, start)).world


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
        world = WorldTransformer(config.model)
        world.initialise(gate=1.0)
        if start is not None:
            if start.config != config.model:
                raise LociError(f"{config.start}: {start.config}, expected {config.model}")
            world.load_state_dict(start.state_dict())
        self.model = WorldObjective(world, config.logit_mean).to(trainer.device)
        self.optimizer = MuonWithAdam(world, HIDDEN, config.learning_rate, dtype=trainer.dtype)
        self.source = BatchSource(walks, config.world, config.seed)
        self.last_rollout = 0.0

    def batch(self, step: Step) -> WorldInputs:
        config, source = self.config, self.source
        stage, world = config.stage(step.progress), self.model.world
        # The same on all processes: they hold batches of one size, and the same rollouts.
        shared = np.random.default_rng([config.seed, step.number])
        spec = stage.histories[shared.integers(len(stage.histories))]
        if stage.freeze_windows and source.tokens is None:
            self._freeze_windows(step.average)
            source.cache_tokens(world.latent_encoder, stage.noise)
        waited = step.seconds - self.last_rollout
        if stage.self_forcing and (source.rollout is None or waited >= config.self_forcing_seconds):
            source.roll_out(world, stage.noise, shared)
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
            self.model.world.latent_encoder,
            average.get_submodule("world.latent_encoder").state_dict(),
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
        return evaluate_recall(model.world, self.evaluation, run)

    def save(self, model: WorldObjective, folder: Path) -> None:
        model.world.save_pretrained(folder)
        frame = None if self.evaluation is None else self.evaluation.example
        save_settings(folder, self.config.world, frame)

    def state_dict(self) -> dict[str, Any]:
        return {"last_rollout": self.last_rollout, "source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_rollout = state["last_rollout"]
        self.source.load_state_dict(state["source"])


class WorldObjective(nn.Module):
    """A world model and its loss, as one module that can be run on several processes."""

    def __init__(self, world: WorldTransformer, logit_mean: float) -> None:
        super().__init__()
        self.world, self.logit_mean = world, logit_mean

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
        world = self.world
        device = world.patch_embedding.weight.device
        size = batch.local.shape[0]
        deviation = history_noise * torch.rand(size, generator=rng)
        # In bfloat16 oneDNN's gradient of small 3-D convolutions is now and then no number (torch
        # 2.13).
        with torch.autocast(device.type, enabled=False):
            memory = compress_history(world.latent_encoder, batch, deviation, tokens, rng)
        local_noise = torch.randn(batch.local.shape, generator=rng)
        local = batch.local + deviation.view(-1, 1, 1, 1) * local_noise
        context = world.context(
            memory.tokens,
            local[:, :, None].to(device),
            Actions(*batch.actions.to(device).unbind(-1)),
            poses=batch_poses(batch, memory),
        )
        data = batch.target.transpose(1, 2).to(device)
        level = sample_levels(size, 1.0, rng, self.logit_mean).to(device)
        noise = torch.randn(data.shape, generator=rng).to(device)
        velocity = world.velocity(add_noise(data, noise, level), level * TIMESTEPS, context)
        error = flow_loss(velocity, data, noise)
        # The network predicts the data, so near s = 0 its velocity is an error divided by s.
        weight = level.square() / (level.square() + 0.05)
        return (weight * error).mean()
