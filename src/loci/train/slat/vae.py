"""Training of stage 2's autoencoder: what voxels hold to latents, to Gaussians and to a mesh.

Surface samples and stored distances teach most of it, at a small part of what renders cost; from a
share of the budget on, renders of recorded views refine the Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from loci.data.objects.dataset import training_folders
from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.placing import merge_gaussians
from loci.objects.models.slat_encoder import kl
from loci.train.optim import MuonWithAdam
from loci.train.precision import Precision, matmul_type, multiplying
from loci.train.slat.parts import SlatVAE, SlatVAEConfig
from loci.train.slat.vae_data import SlatDataset, disturbed, slat_vae_batch, varied
from loci.train.slat.vae_evaluate import evaluate_slat_vae, gaussian_losses, mesh_losses
from loci.train.trainer import (
    Ema,
    LearningRate,
    RunDirectory,
    TrainingBudget,
    TrainState,
    means,
    step_generator,
)


@dataclass(frozen=True)
class LossWeights:
    """What each part of the loss counts for; see `train.codec_losses`."""

    likelihood: float = 0.3
    color: float = 6.0
    opacity: float = 0.2
    sdf: float = 1.0
    zero: float = 1.0
    paint: float = 2.0
    regular: float = 0.01
    kl: float = 2e-3
    picture: float = 4.0
    cover: float = 2.0


@dataclass(frozen=True)
class SlatVAETraining:
    """How to train. `rendered_from` is the share of the budget after which every step renders a
    view, `pixels` its side; `disturbance` the largest share of voxels lost or wrong, `motley` that
    of objects whose voxels have a colour each."""

    parts: SlatVAEConfig = SlatVAEConfig()
    weights: LossWeights = LossWeights()
    budget: TrainingBudget = TrainingBudget(minutes=20)
    rate: LearningRate = LearningRate(peak=1.5e-3, warmup_steps=50, hold=0.4)
    batch: int = 2
    samples: int = 4096
    disturbance: float = 0.1
    motley: float = 0.5
    rendered_from: float = 0.35
    pixels: int = 128
    ema: float = 0.995
    clip_gradient: float = 1.0
    examined: int = 8
    log_seconds: float = 20.0
    exam_seconds: float = 400.0
    checkpoint_seconds: float = 120.0
    seed: int = 0
    precision: Precision = "float32"


def fit_slat_vae(
    train: SlatDataset, test: SlatDataset, out: Path, config: SlatVAETraining | None = None
) -> SlatVAE:
    """Train, examine on `test`, and save the averaged parts under `out/final`.

    A run that was killed goes on from its last checkpoint. Returns the parts in evaluation mode.
    """
    config = config or SlatVAETraining()
    run, dtype = RunDirectory(out), matmul_type(config.precision)
    torch.manual_seed(config.seed)
    model = SlatVAE(config.parts)
    optimizer = MuonWithAdam(model, ("blocks.", "upsample."), config.rate.peak, dtype=dtype)
    ema = Ema(model, config.ema)
    learner = TrainState(model, optimizer, ema)
    learner.resume(run)
    logged: list[dict[str, float]] = []

    run.start_clock()
    while (fraction := config.budget.fraction(run.step, run.seconds)) < 1:
        rate = config.rate.apply(optimizer, run.step, fraction)
        rng = step_generator(config.seed, run.step)
        losses = step_losses(model, train, config, rng, fraction >= config.rendered_from, dtype)
        total = sum(getattr(config.weights, name) * loss for name, loss in losses.items())
        assert isinstance(total, Tensor)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
        optimizer.step()
        ema.update(model)
        run.tick(total.item())
        logged.append({"loss": total.item()} | {name: x.item() for name, x in losses.items()})
        if run.due("log", config.log_seconds):
            run.log(**means(logged), rate=rate)
            logged.clear()
        if run.due("exam", config.exam_seconds):
            run.log(**evaluate_slat_vae(averaged(ema, config), test, config.examined, run))
        if run.due("checkpoint", config.checkpoint_seconds):
            learner.save(run)
    learner.save(run)
    final = averaged(ema, config)
    run.log(**evaluate_slat_vae(final, test, config.examined, run), final=True)
    final.save_pretrained(run.path / "final")
    return final


def step_losses(
    model: SlatVAE,
    train: SlatDataset,
    config: SlatVAETraining,
    rng: torch.Generator,
    render: bool,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The parts of one step's loss on randomly chosen, turned and recoloured objects.

    The networks multiply in `dtype`; what is made of their outputs is measured in float32.
    """
    chosen = torch.randperm(len(train), generator=rng)[: config.batch].tolist()
    # What is rendered keeps its colours and its place; the others are varied.
    items = [train.items[number] for number in chosen]
    items = [
        item if render and i == 0 else varied(item, config.motley, rng)
        for i, item in enumerate(items)
    ]
    items = [disturbed(item, config.disturbance, rng) for item in items]
    batch = slat_vae_batch(items, config.samples, rng)
    with multiplying(dtype):
        mean, log_variance = model.encoder(batch.features, batch.voxels)
        noise = torch.randn(mean.shape, generator=rng)
        latents = mean + (0.5 * log_variance).exp() * noise
        decoded = model.gaussians.decode(latents, batch.voxels)
        feats, _ = model.mesh(latents, batch.voxels)
    side = config.parts.gaussians.torso.resolution
    losses = gaussian_losses(merge_gaussians(decoded), batch, side)
    losses |= mesh_losses(feats, batch, config.parts.mesh.resolution)
    losses["kl"] = kl(mean, log_variance)
    if render:
        view = int(torch.randint(train.views, (), generator=rng))
        seen = train.recorded(chosen[0], view).seen(config.pixels)
        behind = torch.rand(3, generator=rng)
        drawn = render_gaussians(decoded[0], seen.camera, config.pixels, behind)
        losses["picture"] = (drawn.colour - seen.over(behind)).abs().mean()
        losses["cover"] = (drawn.alpha - seen.alpha).abs().mean()
    return losses


def averaged(ema: Ema, config: SlatVAETraining) -> SlatVAE:
    """The averaged parts, in evaluation mode."""
    parts = SlatVAE(config.parts)
    ema.copy_to(parts)
    return parts.eval().requires_grad_(False)


def train_slat_vae(data: Path, out: Path, config: SlatVAETraining | None = None) -> SlatVAE:
    """`fit_slat_vae` on the objects in `data/train` and, if there, `data/more`, examined on
    those in `data/test`."""
    return fit_slat_vae(
        SlatDataset.load(*training_folders(data)), SlatDataset.load(data / "test"), out, config
    )
