"""Training of stage 2's autoencoder: surfaces in voxels to latents, to Gaussians and to a mesh.

Surface samples and stored distances teach most of it, at a small part of what renders cost; from a
share of the budget on, renders of recorded views refine the Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.data.objects.dataset import training_folders
from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.placing import merge_gaussians
from loci.objects.models.slat_encoder import kl
from loci.train.optim import MuonWithAdam
from loci.train.run_directory import RunDirectory
from loci.train.slat.parts import SlatVAE, SlatVAEConfig
from loci.train.slat.vae_data import (
    SlatDataset,
    SlatVAEBatch,
    TargetView,
    augment,
    corrupt_voxels,
    slat_vae_batch,
)
from loci.train.slat.vae_evaluate import evaluate_slat_vae
from loci.train.slat.vae_losses import gaussian_losses, mesh_losses
from loci.train.trainer import Step, Task, Trainer, TrainerConfig


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the loss; see `loci.train.slat.vae_losses`. `picture` and `cover` are
    the errors of colour and alpha of a render."""

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
class SlatVAETraining(TrainerConfig):
    """How to train the autoencoder; the default sizes are those of `home`.

    Attributes:
        parts: sizes of the encoder and the two decoders.
        weights: weights of the parts of the loss.
        samples: points on the surface of every object in a batch.
        corruption: largest share of voxels that are lost or wrong.
        recolored_voxels: share of the objects with a random colour at every voxel.
        render_from: share of the budget after which every step renders a view.
        render_size: side of that view, in pixels.
        evaluation_objects: held-out objects to evaluate on.
    """

    data: Path = Path("runs/objects")
    out: Path = Path("runs/slat_vae")
    parts: SlatVAEConfig = SlatVAEConfig()
    weights: LossWeights = LossWeights()
    minutes: float = 20.0
    learning_rate: float = 1.5e-3
    warmup_steps: int = 50
    hold_fraction: float = 0.4
    batch_size: int = 2
    samples: int = 4096
    corruption: float = 0.1
    recolored_voxels: float = 0.5
    render_from: float = 0.35
    render_size: int = 128
    ema_decay: float = 0.995
    evaluation_objects: int = 8
    log_seconds: float = 20.0
    evaluate_seconds: float = 400.0


CONFIGS = {"home": SlatVAETraining()}


def train_slat_vae(config: SlatVAETraining) -> SlatVAE:
    """Train on the objects in `data/train` and, if there, `data/more`, evaluate on those in
    `data/test`, and save the averaged parts to `out/final`. A run that was stopped goes on from its
    last checkpoint.

    Raises:
        LociError: on unusable data or directories.
    """
    train = SlatDataset.load(*training_folders(config.data))
    return fit_slat_vae(train, SlatDataset.load(config.data / "test"), config)


def fit_slat_vae(train: SlatDataset, test: SlatDataset, config: SlatVAETraining) -> SlatVAE:
    """`train_slat_vae` on objects already in memory."""
    trainer = Trainer(config)
    return trainer.fit(SlatVAETask(config, train, test, trainer))


class RenderedBatch(NamedTuple):
    """Objects, and perhaps a view of the first of them and the background to render it over."""

    objects: SlatVAEBatch
    target: TargetView | None = None
    background: Float[Tensor, "3"] | None = None


class SlatVAETask(Task[SlatVAE]):
    """Augmented objects, the autoencoder, and held-out objects to evaluate it on."""

    def __init__(
        self, config: SlatVAETraining, train: SlatDataset, test: SlatDataset, trainer: Trainer
    ) -> None:
        self.config, self.train, self.test = config, train, test
        self.model = SlatVAE(config.parts).to(trainer.device)
        self.optimizer = MuonWithAdam(
            self.model, ("blocks.", "upsample."), config.learning_rate, dtype=trainer.dtype
        )

    def batch(self, step: Step) -> RenderedBatch:
        render = step.progress >= self.config.render_from
        return draw_objects(self.train, self.config, step.rng, render, step.device)

    def loss(self, model: Callable[..., tuple], batch: RenderedBatch, step: Step):
        losses = slat_vae_losses(model, batch, self.config, step.rng)
        weights = asdict(self.config.weights)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **losses}

    def evaluate(self, model: SlatVAE, run: RunDirectory) -> dict[str, float]:
        return evaluate_slat_vae(model, self.test, self.config.evaluation_objects, run)

    def save(self, model: SlatVAE, folder: Path) -> None:
        model.save_pretrained(folder)


def draw_objects(
    train: SlatDataset,
    config: SlatVAETraining,
    rng: torch.Generator,
    render: bool,
    device: torch.device,
) -> RenderedBatch:
    """Random objects, turned, recoloured and with some voxels wrong; with `render`, the first as
    it is, and one of its views."""
    chosen = torch.randperm(len(train), generator=rng)[: config.batch_size].tolist()
    items = [train.items[number] for number in chosen]
    items = [
        item if render and i == 0 else augment(item, config.recolored_voxels, rng)
        for i, item in enumerate(items)
    ]
    items = [corrupt_voxels(item, config.corruption, rng) for item in items]
    objects = slat_vae_batch(items, config.samples, rng).to(device)
    if not render:
        return RenderedBatch(objects)
    view = int(torch.randint(train.views, (), generator=rng))
    target = train.view(chosen[0], view).target(config.render_size).to(device)
    return RenderedBatch(objects, target, torch.rand(3, generator=rng).to(device))


def slat_vae_losses(
    model: Callable[..., tuple], batch: RenderedBatch, config: SlatVAETraining, rng: torch.Generator
) -> dict[str, Tensor]:
    """The parts of the loss, unweighted, in float32."""
    objects = batch.objects
    mean, log_variance, gaussians, channels = model(objects.features, objects.voxels, rng)
    side = config.parts.gaussians.torso.resolution
    losses = gaussian_losses(merge_gaussians(gaussians), objects, side)
    losses |= mesh_losses(channels, objects, config.parts.mesh.resolution)
    losses["kl"] = kl(mean, log_variance)
    if batch.target is not None and batch.background is not None:
        target, background = batch.target, batch.background
        render = render_gaussians(gaussians[0], target.camera, config.render_size, background)
        losses["picture"] = (render.color - target.over(background)).abs().mean()
        losses["cover"] = (render.alpha - target.alpha).abs().mean()
    return losses
