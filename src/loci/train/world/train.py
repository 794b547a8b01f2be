"""Training of the world model: short histories, then long ones, always revisiting."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loci.codecs.frame import FrameCodec
from loci.data.recordings import LatentWalks, latent_walks, load_recordings
from loci.errors import LociError
from loci.flow import TIMESTEPS, flow_loss, noised, sample_levels
from loci.train.optim import MuonWithAdam
from loci.train.precision import Precision, matmul_type
from loci.train.trainer import (
    Ema,
    LearningRate,
    RunDirectory,
    TrainingBudget,
    TrainState,
    accelerated,
    agreed,
)
from loci.train.world.batches import Batch, Recipe, draw
from loci.train.world.evaluate import RecallEvaluation, evaluate
from loci.train.world.memory_tokens import WindowTokenCache, chunk_poses, compress_history
from loci.train.world.self_forcing import BatchSource
from loci.world.conditioning import Actions
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
    """Recipes to draw batches from with equal chance, up to `until` of the whole budget.

    `noise` is the largest deviation of the noise on the history; `revisits` the share of examples
    chosen for targets that were seen and are out of sight, `moves` that of those chosen for a move,
    `own` that of batches whose past the model made itself. From a stage with `keep_windows` on, the
    codes of windows stay as they are and are made only once: a step takes half the time, and long
    histories cost little more than short ones.
    """

    until: float
    recipes: tuple[Recipe, ...]
    noise: float = 0.2
    revisits: float = 0.6
    moves: float = 0.25
    own: float = 0.0
    keep_windows: bool = False


def doom_stages() -> tuple[TrainingStage, ...]:
    """Short histories with large turns; then merged codes; then long histories, step by step."""
    short = tuple(
        Recipe((n, 0, 0), stride) for n, stride in ((2, 1), (4, 2), (4, 4), (6, 6), (6, 3), (0, 1))
    )
    merged = (
        Recipe((10, 0, 0), 1),
        Recipe((6, 0, 0), 3),
        Recipe((2, 4, 0), 1),
        Recipe((2, 6, 0), 4),
        Recipe((1, 8, 0), 2),
        Recipe((1, 2, 1), 2),
        Recipe((0, 0, 0), 1),
    )
    # All of a long past, as a walk will hold it; small budgets stand for pasts longer still.
    long = (
        Recipe(whole=20),
        Recipe(stride=3, whole=20, lengths=range(256, 1200)),
        Recipe(stride=3, whole=20, lengths=range(64, 320)),
        Recipe(stride=4, whole=12),
        Recipe((6, 3, 0), 3),
        Recipe((2, 0, 0), 1),
    )
    return (
        TrainingStage(0.35, short, noise=0.15),
        TrainingStage(0.6, merged, noise=0.2, keep_windows=True),
        TrainingStage(1.0, long, noise=0.3, revisits=0.5, moves=0.3, own=0.3, keep_windows=True),
    )


@dataclass(frozen=True)
class WorldTraining:
    """How to train a world model on recorded walks."""

    model: TransformerConfig
    stages: tuple[TrainingStage, ...] = field(default_factory=doom_stages)
    budget: TrainingBudget = TrainingBudget(minutes=90)
    rate: LearningRate = LearningRate(peak=8e-4, warmup_steps=100, floor=0.02, hold=0.75)
    batch: int = 16
    walks: int = 320
    held_out_walks: int = 24
    ema: float = 0.998
    clip_gradient: float = 1.0
    level_mean: float = 0.8
    log_seconds: float = 30.0
    exam_seconds: float = 600.0
    checkpoint_seconds: float = 120.0
    own_seconds: float = 480.0
    seed: int = 0
    precision: Precision = "float32"

    def stage(self, fraction: float) -> TrainingStage:
        return next((s for s in self.stages if fraction < s.until), self.stages[-1])


def train_world(
    data: Path,
    codec: FrameCodec,
    out: Path,
    config: WorldTraining,
    start: WorldTransformer | None = None,
) -> WorldTransformer:
    """Train on `data/train`, examine on `data/test`, save the averaged model to `out/final`.

    Begins with the weights of `start`, if given. Encoded walks are kept under `out/../latents`. A
    killed run goes on from its last checkpoint.

    Raises:
        LociError: on unusable data, or when `start` has another configuration.
    """
    train = load_recordings(data / "train")
    count = min(config.walks, len(train.frames))
    walks = latent_walks(train, codec, out.parent / "latents" / "train", count)
    test = load_recordings(data / "test")
    count = min(config.held_out_walks, len(test.frames))
    held_out = latent_walks(test, codec, out.parent / "latents" / "test", count)
    exam = RecallEvaluation.prepare(held_out, test.frames, codec)
    return fit_world(walks, exam, out, config, start)


def fit_world(
    walks: LatentWalks,
    exam: RecallEvaluation | None,
    out: Path,
    config: WorldTraining,
    start: WorldTransformer | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> WorldTransformer:
    """`train_world` on walks already encoded; `on_step` hears each step's number and loss."""
    dtype = matmul_type(config.precision)
    accelerator = accelerated(dtype)
    rank = accelerator.process_index
    run = RunDirectory(out, writes=accelerator.is_main_process)
    torch.manual_seed(config.seed)
    world = WorldTransformer(config.model)
    world.initialise(gate=1.0)
    if start is not None:
        if start.config != config.model:
            raise LociError(f"to begin with: {start.config}, expected {config.model}")
        world.load_state_dict(start.state_dict())
    world.to(accelerator.device)
    trained = Objective(world, config)
    optimizer = MuonWithAdam(world, HIDDEN, config.rate.peak, dtype=dtype)
    ema = Ema(world, config.ema)
    learner = TrainState(world, optimizer, ema)
    learner.resume(run)
    model, optimizer = accelerator.prepare(trained, optimizer)
    losses: list[float] = []
    material = BatchSource(walks, config.seed)

    run.start_clock()
    while True:
        fraction = agreed(config.budget.fraction(run.step, run.seconds), accelerator)
        if fraction >= 1:
            break
        rate = config.rate.apply(optimizer, run.step, fraction)
        stage = config.stage(fraction)
        rng = np.random.default_rng([config.seed, run.step, rank])
        torch.manual_seed(int(rng.integers(2**62)))
        recipe = stage.recipes[np.random.default_rng([run.step]).integers(len(stage.recipes))]
        if stage.keep_windows and material.kept is None:
            ema.apply_to(world.latent_encoder, "latent_encoder.", but="panorama.")
            material.keep_windows(world.latent_encoder, stage.noise)
        if stage.own and (run.due("own", config.own_seconds) or material.own is None):
            material.walk_on(world, stage.noise, rng)
        source = material.source(recipe, stage.own, rng)
        batch = draw(
            source.walks, recipe, config.batch, rng, stage.revisits, stage.moves, source.within
        )
        loss = model(batch, stage.noise, source.kept)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), config.clip_gradient)
        optimizer.step()
        ema.update(world)
        losses.append(loss.item())
        run.tick(loss.item())
        if run.due("log", config.log_seconds):
            run.log(loss=sum(losses) / len(losses), rate=rate, samples=run.step * config.batch)
            losses.clear()
        if exam is not None and run.due("exam", config.exam_seconds) and run.writes:
            run.log(**evaluate(averaged(ema, config.model), exam, run))
        if run.due("checkpoint", config.checkpoint_seconds):
            learner.save(run)
        if on_step is not None:
            on_step(run.step, loss.item())
    learner.save(run)
    final = averaged(ema, config.model)
    if run.writes:
        if exam is not None:
            run.log(**evaluate(final, exam, run), final=True)
        final.save_pretrained(run.path / "final")
    return final


class Objective(torch.nn.Module):
    """A batch to its loss, as one module so that it can be run on several processes."""

    def __init__(self, world: WorldTransformer, config: WorldTraining) -> None:
        super().__init__()
        self.world, self.config = world, config

    def forward(
        self, batch: Batch, history_noise: float, kept: WindowTokenCache | None = None
    ) -> Tensor:
        world = self.world
        device = world.patch_embedding.weight.device
        size = batch.local.shape[0]
        deviation = history_noise * torch.rand(size)
        # In bfloat16 oneDNN's gradient of small 3-D convolutions is now and then no number (torch
        # 2.13).
        with torch.autocast(device.type, enabled=False):
            remembered = compress_history(world.latent_encoder, batch, deviation, kept)
        local = batch.local + deviation.view(-1, 1, 1, 1) * torch.randn_like(batch.local)
        context = world.context(
            remembered.codes,
            local[:, :, None].to(device),
            Actions(*batch.actions.to(device).unbind(-1)),
            address=chunk_poses(batch, remembered),
        )
        data = batch.target.transpose(1, 2).to(device)
        level = sample_levels(size, 1.0, logit_mean=self.config.level_mean).to(device)
        noise = torch.randn_like(data)
        velocity = world.velocity(noised(data, noise, level), level * TIMESTEPS, context)
        error = flow_loss(velocity, data, noise)
        # The network predicts the data, so near s = 0 its velocity is an error divided by s.
        weight = level.square() / (level.square() + 0.05)
        return (weight * error).mean()


def averaged(ema: Ema, config: TransformerConfig) -> WorldTransformer:
    """A copy of the model with the averaged weights, in evaluation mode."""
    model = WorldTransformer(config)
    ema.copy_to(model)
    return model.eval().requires_grad_(False)
