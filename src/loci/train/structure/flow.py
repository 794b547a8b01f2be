"""Training of stage 1: what the picture says and the flow that listens to it, from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from loci.data.objects.dataset import ObjectSet, training_folders
from loci.objects.models.condition import FuserConfig
from loci.objects.models.structure_flow import StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoder, StructureEncoder
from loci.objects.presets import home
from loci.objects.sampling import StructureSampling
from loci.train.optim import MuonWithAdam
from loci.train.precision import Precision, matmul_type
from loci.train.structure.data import ViewedObject, random_pairs, structure_batch, viewed_objects
from loci.train.structure.evaluate import StructureEvaluation, StructureLatents
from loci.train.structure.init import load_pretrained_backbone
from loci.train.structure.objective import StructureLoss, StructureObjective
from loci.train.structure.scenes import SceneVariety
from loci.train.trainer import (
    Ema,
    LearningRate,
    RunDirectory,
    TrainingBudget,
    TrainState,
    accelerated,
    agreed,
    means,
    step_generator,
)

HOME = home()


@dataclass(frozen=True)
class StructureTraining:
    """How to train stage 1; the default sizes are those of `home`.

    `pointmaps` is the share of samples that come with one, `reading` the share of the budget in
    which the flow waits while the picture's embedder learns to tell which place on the object each
    patch shows.
    """

    fuser: FuserConfig = HOME.parts.structure_fuser
    flow: StructureFlowConfig = HOME.parts.structure_flow
    loss: StructureLoss = StructureLoss()
    variety: SceneVariety = SceneVariety()
    sampling: StructureSampling = HOME.run.structure
    budget: TrainingBudget = TrainingBudget(minutes=40)
    rate: LearningRate = LearningRate(peak=2e-3, warmup_steps=100, floor=0.02, hold=0.5)
    batch: int = 16
    pointmaps: float = 0.5
    reading: float = 0.05
    ema: float = 0.998
    clip_gradient: float = 1.0
    exam_objects: int = 24
    log_seconds: float = 30.0
    exam_seconds: float = 600.0
    checkpoint_seconds: float = 120.0
    seed: int = 0
    precision: Precision = "float32"


def train_structure(
    data: Path, codec: Path, out: Path, config: StructureTraining | None = None
) -> StructureObjective:
    """Train on `data/train` and, if there, `data/more`, examine on `data/test`, save the averaged
    parts to `out/final/structure_fuser` and `out/final/structure_flow`. A killed run goes on from
    its last checkpoint.

    `codec` is the run folder of the autoencoder, whose decoder is copied beside the other parts.
    """
    config = config or StructureTraining()
    final = Path(codec) / "final"
    halves = StructureLatents(
        StructureEncoder.from_pretrained(final / "structure_encoder"),
        StructureDecoder.from_pretrained(final / "structure_decoder"),
    )
    train = viewed_objects(ObjectSet.load(*training_folders(data)))
    test = viewed_objects(ObjectSet.load(Path(data) / "test"))
    exam = StructureEvaluation.prepare(
        test, halves, config.sampling, config.exam_objects, config.fuser.picture.input_size
    )
    model = fit_structure(train, halves, exam, out, config)
    halves.decoder.save_pretrained(Path(out) / "final" / "structure_decoder")
    return model


def fit_structure(
    objects: Sequence[ViewedObject],
    codec: StructureLatents,
    exam: StructureEvaluation | None,
    out: Path,
    config: StructureTraining,
) -> StructureObjective:
    """`train_structure` on objects already in memory."""
    dtype = matmul_type(config.precision)
    accelerator = accelerated(dtype)
    run = RunDirectory(out, writes=accelerator.is_main_process)
    torch.manual_seed(config.seed)
    trained = StructureObjective(config.fuser, config.flow, config.loss)
    load_pretrained_backbone(trained.fuser)
    trained.to(accelerator.device)
    optimizer = MuonWithAdam(trained, ("blocks.",), config.rate.peak, 0.02, dtype)
    ema = Ema(trained, config.ema)
    learner = TrainState(trained, optimizer, ema)
    learner.resume(run)
    model, optimizer = accelerator.prepare(trained, optimizer)
    shapes = shape_latents(objects, codec)
    size, with_pointmap = config.fuser.picture.input_size, round(config.pointmaps * config.batch)
    logged: list[dict[str, float]] = []

    run.start_clock()
    while (fraction := agreed(config.budget.fraction(run.step, run.seconds), accelerator)) < 1:
        rate = config.rate.apply(optimizer, run.step, fraction)
        rng = step_generator(config.seed, run.step, accelerator.process_index)
        pairs = random_pairs(objects, config.batch, rng)
        batch = structure_batch(objects, pairs, with_pointmap, size, config.variety, rng)
        data = {"shape": shapes[batch.objects, batch.mirrored.long()], **batch.layout}
        batch = batch.to(accelerator.device)
        data = {name: x.to(accelerator.device) for name, x in data.items()}
        losses = model(batch, data, rng, reading=fraction < config.reading)
        optimizer.zero_grad()
        total = trained.total(losses)
        accelerator.backward(total)
        accelerator.clip_grad_norm_(model.parameters(), config.clip_gradient)
        optimizer.step()
        ema.update(trained)
        run.tick(total.item())
        logged.append({name: loss.item() for name, loss in losses.items()})
        if run.due("log", config.log_seconds):
            run.log(**means(logged), rate=rate, samples=run.step * config.batch)
            logged.clear()
        if exam is not None and run.due("exam", config.exam_seconds) and run.writes:
            run.log(**exam.mark(averaged(ema, config), run))
        if run.due("checkpoint", config.checkpoint_seconds):
            learner.save(run)
    learner.save(run)
    final = averaged(ema, config)
    if run.writes:
        if exam is not None:
            run.log(**exam.mark(final, run), final=True)
        final.fuser.save_pretrained(run.path / "final" / "structure_fuser")
        final.flow.save_pretrained(run.path / "final" / "structure_flow")
    return final


def shape_latents(
    objects: Sequence[ViewedObject], codec: StructureLatents
) -> Float[Tensor, "objects 2 n c"]:
    """The latents of every object and of its mirror image."""
    shapes = torch.stack([one.occupancy for one in objects])
    return torch.stack([codec.latents(shapes), codec.latents(shapes.flip(1))], dim=1)


def averaged(ema: Ema, config: StructureTraining) -> StructureObjective:
    """A copy of the model with the averaged weights, in evaluation mode."""
    model = StructureObjective(config.fuser, config.flow, config.loss)
    ema.copy_to(model)
    return model.eval().requires_grad_(False)
