"""Training of the stage-2 flow: from a picture and the voxels to the latents of each voxel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.data.objects.dataset import training_folders
from loci.flow import TIMESTEPS
from loci.io.weights import save_config
from loci.objects.models.condition import EmbedderFuser, FuserConfig
from loci.objects.models.slat_flow import SlatFlow, SlatFlowConfig, VoxelFlowBlock
from loci.objects.presets import home
from loci.train.optim import MuonWithAdam
from loci.train.precision import Precision, matmul_type, multiplying
from loci.train.slat.flow_evaluate import SlatFlowEvaluation
from loci.train.slat.parts import SlatVAE
from loci.train.slat.targets import FlowBatch, Jolt, cut, flow_batch, latent_statistics
from loci.train.slat.vae_data import SlatDataset
from loci.train.structure.data import CoordinateReader, coordinate_loss
from loci.train.structure.init import initialise_fuser, load_pretrained_backbone
from loci.train.structure.scenes import SceneVariety
from loci.train.trainer import (
    Ema,
    LearningRate,
    RunDirectory,
    TrainingBudget,
    TrainState,
    means,
    step_generator,
)

HOME = home().parts
STATISTICS_NAME = "latent_statistics.json"


@dataclass(frozen=True)
class SlatFlowTraining:
    """How to train; the default sizes are those of `home`.

    `disturbance` is the largest share of voxels lost, `unconditional` that of pictures withheld,
    `unaligned` that of pictures of which no pose tells the voxels' pixels; `jolt` is how far poses
    are from the true ones.
    `time_means` shift the logit-normal times towards the data, for every object one of them:
    through little noise the voxels tell each other's colour, so what the picture says of it is
    learned where there is nearly nothing but noise. `reading` is the weight of the places on the
    object that are read off the tokens of the crop. Before the share `whole_from` of the budget
    only `cut` voxels of an object are shown, but of `cut_batch` objects: pictures and colours are
    what there are too few of.
    """

    flow: SlatFlowConfig = HOME.latent_flow
    fuser: FuserConfig = HOME.latent_fuser
    variety: SceneVariety = SceneVariety()
    budget: TrainingBudget = TrainingBudget(minutes=20)
    rate: LearningRate = LearningRate(peak=1e-3, warmup_steps=60, hold=0.5)
    batch: int = 4
    cut_batch: int = 12
    cut: int = 600
    whole_from: float = 0.6
    disturbance: float = 0.08
    unconditional: float = 0.1
    unaligned: float = 0.15
    jolt: Jolt = Jolt()
    time_means: tuple[float, ...] = (-0.3, -4.0)
    reading: float = 0.5
    ema: float = 0.995
    clip_gradient: float = 1.0
    examined: int = 8
    log_seconds: float = 20.0
    exam_seconds: float = 600.0
    checkpoint_seconds: float = 120.0
    seed: int = 0
    precision: Precision = "float32"


class FlowLosses(NamedTuple):
    """Mean squared error of the velocity, and the loss of the places read off the picture."""

    velocity: Float[Tensor, ""]
    coordinates: Float[Tensor, ""]


class PicturedFlow(nn.Module):
    """The fuser and the flow, which learn together."""

    def __init__(self, config: SlatFlowTraining) -> None:
        super().__init__()
        self.fuser = EmbedderFuser.of(config.fuser)
        self.flow = SlatFlow(config.flow)
        self.reader = CoordinateReader(config.fuser)
        initialise_fuser(self.fuser)
        _begin(self.flow)

    def losses(
        self,
        batch: FlowBatch,
        data: Float[Tensor, "n c"],
        config: SlatFlowTraining,
        rng: torch.Generator,
    ) -> FlowLosses:
        """With the velocity data - noise, at a random time for every item; `data` are the
        normalised latents of the batch."""
        voxels = batch.encoded.voxels
        count = len(voxels.items)
        shown = (torch.rand(count, 1, 1, generator=rng) >= config.unconditional).float()
        placed = (torch.rand(count, 1, 1, generator=rng) >= config.unaligned).float() * shown
        means = torch.tensor(config.time_means)
        means = means[torch.randint(len(means), (count,), generator=rng)]
        time = torch.sigmoid(torch.randn(count, generator=rng) + means)
        noise = torch.randn(data.shape, generator=rng)
        owner = voxels.coords[:, 0]
        share = time[owner, None]
        # All-zero tokens and pixels are the unconditional branch.
        tokens, aligned = self.fuser(batch.inputs), None
        if self.flow.config.aligned and batch.encoded.aligned is not None:
            aligned = batch.encoded.aligned * placed[owner, 0]
        state = share * data + (1 - share) * noise
        velocity = self.flow(state, time * TIMESTEPS, voxels, tokens * shown, aligned)
        places = coordinate_loss(self.reader(tokens), batch.coordinates)
        return FlowLosses((velocity - (data - noise)).square().mean(), places)

    def save_pretrained(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write `latent_fuser` and `latent_flow` into a folder."""
        self.fuser.save_pretrained(folder / "latent_fuser", dtype)
        self.flow.save_pretrained(folder / "latent_flow", dtype)


def train_slat_flow(
    data: Path,
    codec: Path,
    out: Path,
    config: SlatFlowTraining | None = None,
) -> PicturedFlow:
    """Train on `data/train` and, if there, `data/more`, with the autoencoder that a run of
    `train_slat_vae` left in `codec/final`, examine on `data/test`, and save under `out/final`.

    Raises:
        LociError: on unusable data, or when a part of the autoencoder is missing.
    """
    parts = SlatVAE.from_pretrained(Path(codec) / "final")
    train = SlatDataset.load(*training_folders(data))
    test = SlatDataset.load(Path(data) / "test")
    return fit_slat_flow(train, test, parts, out, config)


def fit_slat_flow(
    train: SlatDataset,
    test: SlatDataset,
    parts: SlatVAE,
    out: Path,
    config: SlatFlowTraining | None = None,
) -> PicturedFlow:
    """`train_slat_flow` on objects already in memory.

    Saves the averaged fuser and flow and, as `latent_statistics.json`, how latents are
    normalised. A run that was killed goes on from its last checkpoint. Returns the averaged
    networks in evaluation mode.
    """
    config = config or SlatFlowTraining()
    run, dtype = RunDirectory(out), matmul_type(config.precision)
    statistics = latent_statistics(train, parts.encoder)
    exam = SlatFlowEvaluation.prepare(test, parts, statistics, config.examined)
    torch.manual_seed(config.seed)
    model = PicturedFlow(config)
    load_pretrained_backbone(model.fuser)
    optimizer = MuonWithAdam(model, ("blocks.",), config.rate.peak, dtype=dtype)
    ema = Ema(model, config.ema)
    learner = TrainState(model, optimizer, ema)
    learner.resume(run)
    size = config.fuser.picture.input_size
    logged: list[dict[str, float]] = []

    run.start_clock()
    while (fraction := config.budget.fraction(run.step, run.seconds)) < 1:
        rate = config.rate.apply(optimizer, run.step, fraction)
        rng = step_generator(config.seed, run.step)
        whole = fraction >= config.whole_from
        count = config.batch if whole else config.cut_batch
        batch = flow_batch(
            *(train, parts.encoder, count, size),
            *(config.variety, config.disturbance, rng, config.jolt, dtype),
        )
        if not whole:
            batch = batch._replace(encoded=cut(batch.encoded, config.cut, rng))
        data = statistics.normalise(batch.encoded.latents)
        with multiplying(dtype):
            losses = model.losses(batch, data, config, rng)
        loss = losses.velocity + config.reading * losses.coordinates
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
        optimizer.step()
        ema.update(model)
        run.tick(loss.item())
        logged.append({name: part.item() for name, part in losses._asdict().items()})
        if run.due("log", config.log_seconds):
            run.log(**means(logged), rate=rate)
            logged.clear()
        if run.due("exam", config.exam_seconds):
            averaged = _averaged(ema, config)
            run.log(**exam.examine(averaged.fuser, averaged.flow, run))
        if run.due("checkpoint", config.checkpoint_seconds):
            learner.save(run)
    learner.save(run)
    final = _averaged(ema, config)
    run.log(**exam.examine(final.fuser, final.flow, run), final=True)
    final.save_pretrained(run.path / "final")
    save_config(run.path / "final" / STATISTICS_NAME, statistics)
    return final


@torch.no_grad()
def _begin(flow: SlatFlow) -> None:
    """Every block acts from the first step, and the first velocity is zero."""
    for block in flow.blocks:
        modulation = cast(nn.Linear, cast(VoxelFlowBlock, block).adaLN_modulation[1])
        gates = modulation.bias.view(6, -1)
        modulation.weight.mul_(0.2)
        gates.zero_()
        gates[[2, 5]] = 1
    flow.out_layer.weight.zero_()
    flow.out_layer.bias.zero_()


def _averaged(ema: Ema, config: SlatFlowTraining) -> PicturedFlow:
    model = PicturedFlow(config)
    ema.copy_to(model)
    return model.eval().requires_grad_(False)
