"""Training of stage 1: the fuser of the picture's tokens and the flow of shape and pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.data.objects.dataset import ObjectSet, training_folders
from loci.errors import LociError
from loci.objects.config import home
from loci.objects.models.condition import EmbedderFuser, FuserConfig
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoder, StructureEncoder
from loci.objects.parts import STRUCTURE_DECODER, STRUCTURE_FLOW, STRUCTURE_FUSER
from loci.objects.sampling import StructureSampling
from loci.train.optim import MuonWithAdam
from loci.train.run_directory import RunDirectory
from loci.train.structure.data import (
    StructureBatch,
    StructureObject,
    load_structure_objects,
    random_pairs,
    structure_batch,
)
from loci.train.structure.evaluate import StructureEvaluation, StructureLatents
from loci.train.structure.init import load_pretrained_backbone
from loci.train.structure.objective import StructureLoss, StructureObjective
from loci.train.structure.scenes import SceneAugmentation
from loci.train.trainer import Step, Task, Trainer, TrainerConfig

HOME = home()


@dataclass(frozen=True)
class StructureTraining(TrainerConfig):
    """How to train stage 1; the default sizes are those of `home`.

    Attributes:
        vae: the run of the structure autoencoder, whose decoder is copied beside the flow.
        fuser: sizes of the fuser of the picture's tokens.
        flow: sizes of the flow.
        loss: weights and noise levels of the loss.
        augmentation: what may happen to a picture.
        sampling: settings with which evaluations sample.
        pointmap_share: share of the samples that come with a pointmap.
        coordinate_warmup: share of the budget in which only the picture's embedder learns, to tell
            which place on the object each patch shows.
        evaluation_objects: held-out objects to evaluate on.
        evaluation_part: folder of the data that they come from: "aside" leaves "test" untouched
            while settings are chosen.
        init_from: a model folder whose weights to begin with, such as src/loci/shipped/home;
            without it, from nothing.
    """

    data: Path = Path("runs/objects")
    out: Path = Path("runs/structure")
    vae: Path = Path("runs/structure_vae")
    fuser: FuserConfig = HOME.parts.structure_fuser
    flow: StructureFlowConfig = HOME.parts.structure_flow
    loss: StructureLoss = StructureLoss()
    augmentation: SceneAugmentation = SceneAugmentation()
    sampling: StructureSampling = HOME.lifter.structure
    minutes: float = 40.0
    learning_rate: float = 2e-3
    final_fraction: float = 0.02
    hold_fraction: float = 0.5
    pointmap_share: float = 0.5
    coordinate_warmup: float = 0.05
    evaluation_objects: int = 24
    evaluation_part: str = "test"
    init_from: Path | None = None


CONFIGS = {"home": StructureTraining()}


def train_structure(config: StructureTraining) -> StructureObjective:
    """Train on `data/train` and, if there, `data/more`, evaluate on `evaluation_part`, and save the
    averaged parts to `out/final/structure_fuser` and `out/final/structure_flow`. A run that was
    stopped goes on from its last checkpoint.

    Raises:
        LociError: on unusable data, when the autoencoder is missing, or when `init_from` has
            another configuration.
    """
    start = None if config.init_from is None else load_start(config.init_from, config)
    final = config.vae / "final"
    codec = StructureLatents(
        StructureEncoder.from_pretrained(final / "structure_encoder"),
        StructureDecoder.from_pretrained(final / "structure_decoder"),
    )
    train = load_structure_objects(ObjectSet.load(*training_folders(config.data)))
    test = load_structure_objects(ObjectSet.load(config.data / config.evaluation_part))
    return fit_structure(train, test, codec, config, start)


class StructureStart(NamedTuple):
    """The parts that a training begins with."""

    fuser: EmbedderFuser
    flow: StructureFlow


def load_start(folder: Path, config: StructureTraining) -> StructureStart:
    """The fuser and the flow of a model folder, in float32.

    Raises:
        LociError: when they are missing or have another configuration.
    """
    start = StructureStart(
        EmbedderFuser.from_pretrained(folder / STRUCTURE_FUSER).float(),
        StructureFlow.from_pretrained(folder / STRUCTURE_FLOW).float(),
    )
    for part, expected in zip(start, (config.fuser, config.flow), strict=True):
        if part.config != expected:
            raise LociError(f"{folder}: {part.config}, expected {expected}")
    return start


def fit_structure(
    train: Sequence[StructureObject],
    test: Sequence[StructureObject],
    codec: StructureLatents,
    config: StructureTraining,
    start: StructureStart | None = None,
) -> StructureObjective:
    """`train_structure` on objects already in memory; without `test` nothing is evaluated."""
    trainer = Trainer(config)
    task = StructureTask(config, train, test, codec.to(trainer.device), trainer, start)
    return trainer.fit(task)


class LatentBatch(NamedTuple):
    """Pictures, and the latents to generate from them by published name, `[b, n, c]`."""

    inputs: StructureBatch
    latents: dict[str, Tensor]


class StructureTask(Task[StructureObjective]):
    """Random pictures of objects, and the fuser and flow that find shape and pose in them."""

    def __init__(
        self,
        config: StructureTraining,
        train: Sequence[StructureObject],
        test: Sequence[StructureObject],
        codec: StructureLatents,
        trainer: Trainer,
        start: StructureStart | None = None,
    ) -> None:
        self.config, self.objects, self.codec = config, train, codec
        self.model = StructureObjective(config.fuser, config.flow, config.loss)
        if start is None:
            load_pretrained_backbone(self.model.fuser)
        else:
            self.model.fuser.load_state_dict(start.fuser.state_dict())
            self.model.flow.load_state_dict(start.flow.state_dict())
        self.model.to(trainer.device)
        self.optimizer = MuonWithAdam(
            self.model, ("blocks.",), config.learning_rate, 0.02, trainer.dtype
        )
        self.latents = shape_latents(train, codec)
        self.size = config.fuser.picture.input_size
        self.evaluation: StructureEvaluation | None = None
        if test:
            self.evaluation = StructureEvaluation.prepare(
                test, codec, config.sampling, config.evaluation_objects, self.size
            )

    def batch(self, step: Step) -> LatentBatch:
        config = self.config
        pairs = random_pairs(self.objects, config.batch_size, step.rng)
        with_pointmap = round(config.pointmap_share * config.batch_size)
        batch = structure_batch(
            self.objects, pairs, with_pointmap, self.size, config.augmentation, step.rng
        )
        data = {"shape": self.latents[batch.objects, batch.mirrored.long()], **batch.layout}
        data = {name: x.to(step.device) for name, x in data.items()}
        return LatentBatch(batch.to(step.device), data)

    def loss(
        self, model: Callable[..., dict[str, Tensor]], batch: LatentBatch, step: Step
    ) -> dict[str, Tensor]:
        warmup = step.progress < self.config.coordinate_warmup
        losses = model(*batch, step.rng, coordinates_only=warmup)
        return {"loss": self.model.total(losses), **losses}

    def evaluate(self, model: StructureObjective, run: RunDirectory) -> dict[str, float]:
        return {} if self.evaluation is None else self.evaluation.score(model, run)

    def save(self, model: StructureObjective, folder: Path) -> None:
        model.fuser.save_pretrained(folder / STRUCTURE_FUSER)
        model.flow.save_pretrained(folder / STRUCTURE_FLOW)
        self.codec.decoder.save_pretrained(folder / STRUCTURE_DECODER)


def shape_latents(
    objects: Sequence[StructureObject], codec: StructureLatents
) -> Float[Tensor, "objects 2 n c"]:
    """The latents of every object and of its mirror image, on the CPU."""
    shapes = torch.stack([one.occupancy for one in objects])
    both = [codec.latents(shapes).cpu(), codec.latents(shapes.flip(1)).cpu()]
    return torch.stack(both, dim=1)
