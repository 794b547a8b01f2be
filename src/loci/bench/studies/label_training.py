"""Trains a small flow model on labelled films: it knows actions and times, and no poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from loci.actions import UNCERTAIN
from loci.flow import TIMESTEPS, add_noise, sample_levels
from loci.memory.hpmc import HPMCConfig
from loci.memory.panorama_merge import POSE_FEATURES
from loci.memory.pose_rotary import PoseRotaryConfig
from loci.train.optim import MuonWithAdam
from loci.train.trainer import Step, Task, Trainer, TrainerConfig
from loci.train.world.batches import WorldBatch
from loci.train.world.memory_tokens import batch_actions, batch_poses, compress_history
from loci.train.world.train import HIDDEN, rename_former_tensors
from loci.world.conditioning import ActionEncoderConfig
from loci.world.transformer import TransformerConfig, WorldTransformer

TARGETS = 4
"""Frames of a chunk, and of a command."""
BALANCED = 0.8
"""Share of the examples drawn for a true action, every one as often as any other."""
LOGIT_MEAN, HIGH_NOISE, HIGH_NOISE_LOGIT_MEAN = 0.8, 0.45, 4.0
LEARNING_RATE = 2e-3


def small_transformer(width: int, blocks: int, latent_channels: int) -> TransformerConfig:
    """`doom_transformer(False)`, smaller."""
    return TransformerConfig(
        dim=width,
        ffn_dim=4 * width,
        blocks=blocks,
        heads=max(1, width // 64),
        frequencies=128,
        latent_channels=latent_channels,
        text_width=None,
        actions=ActionEncoderConfig(embedding=32, hidden=64, strides=(1, 1)),
        memory_encoder=HPMCConfig(
            in_channels=latent_channels + POSE_FEATURES,
            out_channels=width,
            hidden=32,
            heads=2,
            blocks_per_level=1,
            spatial_stride=2,
        ),
        pose_rotary=PoseRotaryConfig(time_only=True),
        memory_stream="fixed",
        prediction="data",
        round_timestep=False,
        skip_head=2 * width,
    )


@dataclass(frozen=True)
class LabelledFilms:
    """Latents of films, what each step is labelled, which frames are trained on, and the true
    actions, by which examples are drawn: the same ones, however films are labelled."""

    latents: Float[Tensor, "n t c h w"]
    actions: Int[Tensor, "n t-1 2"]
    used: Bool[Tensor, "n t-1"]
    true: Int[np.ndarray, "n t-1 2"]

    @property
    def starts(self) -> range:
        """Where local frames may be: a chunk follows them."""
        return range(self.latents.shape[1] - TARGETS)

    def by_action(self) -> list[Int[np.ndarray, "k 2"]]:
        """Film and frame of the starts of every true action that occurs; the last is none."""
        moves, views = np.moveaxis(self.true[:, self.starts.start : self.starts.stop], -1, 0)
        kinds = [moves == move for move in range(1, UNCERTAIN)]
        kinds += [views == view for view in range(1, UNCERTAIN)]
        kinds.append((moves == 0) & (views == 0))
        return [np.argwhere(kind) + [0, self.starts.start] for kind in kinds if kind.any()]

    def batch(self, films: Int[np.ndarray, "b"], nows: Int[np.ndarray, "b"]) -> WorldBatch:
        """Examples without a history: it would show how the camera moves. Poses are zero."""
        walk, now = torch.from_numpy(films), torch.from_numpy(nows)
        after = now[:, None] + 1 + torch.arange(TARGETS)
        none = torch.zeros(len(films), 1 + TARGETS, 3, dtype=torch.float64)
        return WorldBatch(
            walks=walk,
            now=now,
            spans=(),
            span_poses=(),
            ends=(),
            local=self.latents[walk, now].float(),
            local_pose=none[:, 0],
            target=self.latents[walk[:, None], after].float(),
            target_pose=none[:, 1:],
            target_frames=after,
            actions=self.actions[walk[:, None], after - 1],
            hidden=torch.zeros(after.shape, dtype=torch.bool),
        )


def draw_starts(
    films: LabelledFilms,
    by_action: list[Int[np.ndarray, "k 2"]],
    count: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    """Films and local frames at random, some of them by true actions."""
    at = np.column_stack(
        [
            rng.integers(films.latents.shape[0], size=count),
            rng.integers(films.starts.start, films.starts.stop, size=count),
        ]
    )
    for k in np.flatnonzero(rng.random(count) < BALANCED):
        chosen = by_action[rng.integers(len(by_action))]
        at[k] = chosen[rng.integers(len(chosen))]
    return at[:, 0], at[:, 1]


class ChunkObjective(nn.Module):
    """The flow loss of a chunk, over the frames that are used."""

    def __init__(self, transformer: WorldTransformer) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(rename_former_tensors)
        self.transformer = transformer

    def forward(self, batch: WorldBatch, used: Bool[Tensor, "b t"], rng: torch.Generator) -> Tensor:
        """Weighted as in the training of worlds."""
        transformer = self.transformer
        device = transformer.patch_embedding.weight.device
        # In bfloat16 oneDNN's gradient of small 3-D convolutions is now and then no number.
        with torch.autocast(device.type, enabled=False):
            memory = compress_history(transformer.memory_encoder, batch)
        local = batch.local[:, :, None].to(device)
        actions = batch_actions(batch, device)
        context = transformer.context(
            memory.tokens, local, actions, poses=batch_poses(batch, memory)
        )
        data = batch.target.transpose(1, 2).to(device)
        size = len(data)
        level = sample_levels(size, 1.0, rng, LOGIT_MEAN)
        high = sample_levels(size, 1.0, rng, HIGH_NOISE_LOGIT_MEAN)
        level = torch.where(torch.rand(size, generator=rng) < HIGH_NOISE, high, level).to(device)
        noise = torch.randn(data.shape, generator=rng).to(device)
        velocity = transformer.velocity(add_noise(data, noise, level), level * TIMESTEPS, context)
        error = (velocity.float() - (noise - data)).square().mean(dim=(1, 3, 4))
        # The network predicts the data, so near s = 0 its velocity is an error divided by s.
        weight = (level.square() / (level.square() + 0.05))[:, None] * used.to(device)
        return (weight * error).sum() / used.sum().clamp(min=1)


class ChunkTask(Task[ChunkObjective]):
    """Chunks of labelled films. Which ones, and their noise, follow from the trainer's seed."""

    def __init__(
        self,
        films: LabelledFilms,
        model: TransformerConfig,
        trainer: Trainer,
        start: WorldTransformer | None,
    ) -> None:
        self.films, self.by_action = films, films.by_action()
        transformer = WorldTransformer(model)
        transformer.init_weights(gate_bias=1.0)
        if start is not None:
            transformer.load_state_dict(start.state_dict())
        self.model = ChunkObjective(transformer).to(trainer.device)
        self.optimizer = MuonWithAdam(
            transformer, HIDDEN, trainer.config.learning_rate, dtype=trainer.dtype
        )
        self.size = trainer.config.batch_size

    def batch(self, step: Step) -> tuple[WorldBatch, Tensor]:
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=step.rng)))
        batch = self.films.batch(*draw_starts(self.films, self.by_action, self.size, rng))
        return batch, self.films.used[batch.walks[:, None], batch.target_frames - 1]

    def loss(self, model: Callable[..., Any], batch: Any, step: Step) -> dict[str, Tensor]:
        return {"loss": model(*batch, step.rng)}

    def save(self, model: ChunkObjective, folder: Path) -> None:
        model.transformer.save_pretrained(folder)


def train_chunks(
    films: LabelledFilms,
    model: TransformerConfig,
    out: Path,
    steps: int,
    batch_size: int,
    seed: int,
    start: WorldTransformer | None = None,
) -> WorldTransformer:
    """A model trained on labelled films, from `start` or from nothing; goes on where it stopped.

    Args:
        films: with their labels.
        model: its configuration.
        out: folder of the run.
        steps: of training.
        batch_size: examples a step.
        seed: of the weights and of all samples.
        start: weights to begin with.
    """
    config = TrainerConfig(
        out=out,
        steps=steps,
        learning_rate=LEARNING_RATE,
        warmup_steps=min(50, steps // 4),
        hold_fraction=0.5,
        final_fraction=0.02,
        batch_size=batch_size,
        ema_decay=0.99,
        evaluate_seconds=1e9,
        checkpoint_seconds=60.0,
        seed=seed,
        precision="float32",
    )
    trainer = Trainer(config)
    return trainer.fit(ChunkTask(films, model, trainer, start)).transformer
