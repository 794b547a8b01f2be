"""Training of stage 2: the fuser of the picture's tokens and the flow of voxel latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.data.objects.dataset import training_folders
from loci.flow import TIMESTEPS
from loci.io.config_files import save_config
from loci.nn.sparse.voxels import Voxels
from loci.objects.config import home
from loci.objects.models.condition import EmbedderFuser, FuserConfig
from loci.objects.models.slat_flow import SlatFlow, SlatFlowConfig, VoxelFlowBlock
from loci.train.optim import MuonWithAdam
from loci.train.run_directory import RunDirectory
from loci.train.slat.flow_evaluate import SlatFlowEvaluation
from loci.train.slat.parts import SlatVAE
from loci.train.slat.targets import (
    PoseJitter,
    SlatFlowBatch,
    crop_voxels,
    flow_batch,
    latent_statistics,
)
from loci.train.slat.vae_data import SlatDataset
from loci.train.structure.coordinates import CoordinateHead, coordinate_loss
from loci.train.structure.init import initialize_fuser, load_pretrained_backbone
from loci.train.structure.scenes import SceneAugmentation
from loci.train.trainer import Step, Task, Trainer, TrainerConfig

HOME = home().parts
STATISTICS_NAME = "latent_statistics.json"


@dataclass(frozen=True)
class SlatFlowTraining(TrainerConfig):
    """How to train stage 2; the default sizes are those of `home`.

    Attributes:
        vae: the run of stage 2's autoencoder.
        flow: sizes of the flow.
        fuser: sizes of the fuser of the picture's tokens.
        augmentation: what may happen to a picture.
        crop_size: voxels of an object that are trained on at first, so that a step holds more
            objects and pictures.
        crop_batch_size: objects in a step while they are cropped; afterwards batch_size.
        crop_until: share of the budget until which objects are cropped.
        corruption: largest share of voxels that are lost or wrong.
        condition_dropout: share of pictures withheld, for classifier-free guidance.
        pixel_dropout: share of pictures whose pixels are not assigned to voxels.
        pose_noise: noise of the poses that assign pixels to voxels.
        logit_means: means of the logit-normal times, one of which every object draws one. With
            little noise a voxel's colour can be read off its neighbours, so the picture is only
            needed near pure noise.
        coordinate_weight: weight of the loss of the object coordinates.
        evaluation_objects: held-out objects to evaluate on.
    """

    data: Path = Path("runs/objects")
    out: Path = Path("runs/slat")
    vae: Path = Path("runs/slat_vae")
    flow: SlatFlowConfig = HOME.slat_flow
    fuser: FuserConfig = HOME.slat_fuser
    augmentation: SceneAugmentation = SceneAugmentation()
    minutes: float = 20.0
    warmup_steps: int = 60
    hold_fraction: float = 0.5
    batch_size: int = 4
    crop_size: int = 600
    crop_batch_size: int = 12
    crop_until: float = 0.6
    corruption: float = 0.08
    condition_dropout: float = 0.1
    pixel_dropout: float = 0.15
    pose_noise: PoseJitter = PoseJitter()
    logit_means: tuple[float, ...] = (-0.3, -4.0)
    coordinate_weight: float = 0.5
    ema_decay: float = 0.995
    evaluation_objects: int = 8
    log_seconds: float = 20.0


CONFIGS = {"home": SlatFlowTraining()}


def train_slat_flow(config: SlatFlowTraining) -> ConditionedFlow:
    """Train on `data/train` and, if there, `data/more`, evaluate on `data/test`, and save the
    averaged parts to `out/final`, with the statistics by which latents are normalised. A run that
    was stopped goes on from its last checkpoint.

    Raises:
        LociError: on unusable data, or when a part of the autoencoder is missing.
    """
    codec = SlatVAE.from_pretrained(config.vae / "final")
    train = SlatDataset.load(*training_folders(config.data))
    test = SlatDataset.load(config.data / "test")
    return fit_slat_flow(train, test, codec, config)


def fit_slat_flow(
    train: SlatDataset, test: SlatDataset, codec: SlatVAE, config: SlatFlowTraining
) -> ConditionedFlow:
    """`train_slat_flow` on objects already in memory."""
    trainer = Trainer(config)
    return trainer.fit(SlatFlowTask(config, train, test, codec.to(trainer.device), trainer))


class SlatFlowTask(Task["ConditionedFlow"]):
    """Random pictures of encoded objects, and the fuser and flow that make latents from them."""

    def __init__(
        self,
        config: SlatFlowTraining,
        train: SlatDataset,
        test: SlatDataset,
        codec: SlatVAE,
        trainer: Trainer,
    ) -> None:
        self.config, self.train, self.encoder, self.dtype = (
            config,
            train,
            codec.encoder,
            trainer.dtype,
        )
        self.statistics = latent_statistics(train, codec.encoder)
        self.evaluation = SlatFlowEvaluation.prepare(
            test, codec, self.statistics, config.evaluation_objects
        )
        self.model = ConditionedFlow(config.fuser, config.flow)
        load_pretrained_backbone(self.model.fuser)
        self.model.to(trainer.device)
        self.optimizer = MuonWithAdam(
            self.model, ("blocks.",), config.learning_rate, dtype=trainer.dtype
        )

    def batch(self, step: Step) -> SlatFlowBatch:
        config = self.config
        cropped = step.progress < config.crop_until
        batch = flow_batch(
            self.train,
            self.encoder,
            config.crop_batch_size if cropped else config.batch_size,
            config.fuser.picture.input_size,
            config.augmentation,
            config.corruption,
            step.rng,
            config.pose_noise,
            self.dtype,
        )
        if cropped:
            batch = batch._replace(objects=crop_voxels(batch.objects, config.crop_size, step.rng))
        return batch.to(step.device)

    def loss(
        self, model: Callable[..., tuple[Tensor, Tensor]], batch: SlatFlowBatch, step: Step
    ) -> dict[str, Tensor]:
        data = self.statistics.normalize(batch.objects.latents)
        return flow_losses(model, batch, data, self.config, step.rng)

    def evaluate(self, model: ConditionedFlow, run: RunDirectory) -> dict[str, float]:
        return self.evaluation.score(model.fuser, model.flow, run)

    def save(self, model: ConditionedFlow, folder: Path) -> None:
        model.fuser.save_pretrained(folder / "slat_fuser")
        model.flow.save_pretrained(folder / "slat_flow")
        save_config(folder / STATISTICS_NAME, self.statistics)


def flow_losses(
    model: Callable[..., tuple[Tensor, Tensor]],
    batch: SlatFlowBatch,
    data: Float[Tensor, "n c"],
    config: SlatFlowTraining,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Mean squared error of the velocity data - noise, at a random time for every object, and the
    loss of the object coordinates.

    Args:
        model: a `ConditionedFlow`.
        batch: objects and their pictures.
        data: the normalised latents of the batch.
        config: dropout, times and weights.
        rng: on the CPU.
    """
    voxels, count = batch.objects.voxels, len(batch.objects.voxels.items)
    present = (torch.rand(count, 1, 1, generator=rng) >= config.condition_dropout).float()
    placed = (torch.rand(count, 1, 1, generator=rng) >= config.pixel_dropout).float() * present
    means = torch.tensor(config.logit_means)
    means = means[torch.randint(len(means), (count,), generator=rng)]
    time = torch.sigmoid(torch.randn(count, generator=rng) + means).to(data.device)
    noise = torch.randn(data.shape, generator=rng).to(data)
    owner = voxels.coords[:, 0]
    share = time[owner, None]
    # All-zero tokens and pixels are the unconditional branch.
    aligned = batch.objects.aligned
    if aligned is not None:
        aligned = aligned * placed.to(data.device)[owner, 0]
    state = share * data + (1 - share) * noise
    velocity, predicted = model(
        batch.inputs, state, time * TIMESTEPS, voxels, present.to(data.device), aligned
    )
    error = (velocity - (data - noise)).square().mean()
    coordinates = coordinate_loss(predicted, batch.coordinates)
    loss = error + config.coordinate_weight * coordinates
    return {"loss": loss, "velocity": error, "coordinates": coordinates}


class ConditionedFlow(nn.Module):
    """The fuser and the flow, which learn together, and the head for object coordinates."""

    def __init__(self, fuser: FuserConfig, flow: SlatFlowConfig) -> None:
        super().__init__()
        self.fuser, self.flow = EmbedderFuser.from_config(fuser), SlatFlow(flow)
        self.coordinate_head = CoordinateHead(fuser)
        initialize_fuser(self.fuser)
        initialize_flow(self.flow)

    def forward(
        self,
        inputs: dict[str, Tensor],
        state: Float[Tensor, "n c"],
        timestep: Float[Tensor, "b"],
        voxels: Voxels,
        present: Float[Tensor, "b 1 1"],
        aligned: Float[Tensor, "n a"] | None,
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "b 3 g g"]]:
        """The velocity, and the object coordinates predicted from the picture's tokens.

        Args:
            inputs: of the fuser, by name.
            state: noisy latents of all voxels.
            timestep: of every object, in 0..1000.
            voxels: where the latents are.
            present: 0 where the condition is withheld, 1 elsewhere.
            aligned: the picture's pixels at every voxel, if the flow takes them.
        """
        tokens = self.fuser(inputs)
        aligned = aligned if self.flow.config.aligned else None
        velocity = self.flow(state, timestep, voxels, tokens * present, aligned)
        return velocity, self.coordinate_head(tokens)


@torch.no_grad()
def initialize_flow(flow: SlatFlow) -> None:
    """Every block acts from the first step, and the first velocity is zero."""
    for block in flow.blocks:
        modulation = cast(nn.Linear, cast(VoxelFlowBlock, block).adaLN_modulation[1])
        gates = modulation.bias.view(6, -1)
        modulation.weight.mul_(0.2)
        gates.zero_()
        gates[[2, 5]] = 1
    flow.out_layer.weight.zero_()
    flow.out_layer.bias.zero_()
