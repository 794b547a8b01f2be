"""Training of the per-frame codec: reconstruct frames through slightly disturbed latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.data.recordings import load_recordings
from loci.train.precision import Precision, matmul_type
from loci.train.trainer import (
    Ema,
    LearningRate,
    RunDirectory,
    TrainingBudget,
    TrainState,
    accelerated,
    agreed,
    step_generator,
)

FRAMES_FOR_COMPONENTS, PATCHES_FOR_COMPONENTS = 1500, 50_000
FRAMES_FOR_STATISTICS = 4096


@dataclass(frozen=True)
class CodecTraining:
    """How to train a codec. `latent_noise` is in units of each latent channel's deviation."""

    codec: FrameCodecConfig = FrameCodecConfig()
    budget: TrainingBudget = TrainingBudget()
    rate: LearningRate = LearningRate(peak=2e-3, warmup_steps=50)
    batch: int = 32
    latent_noise: float = 0.05
    ema: float = 0.998
    clip_gradient: float = 1.0
    held_out_frames: int = 256
    log_seconds: float = 20.0
    evaluate_seconds: float = 90.0
    checkpoint_seconds: float = 120.0
    seed: int = 0
    precision: Precision = "float32"


def train_codec(data: Path, out: Path, config: CodecTraining | None = None) -> FrameCodec:
    """Trains on the recordings in `data/train`, watches those in `data/test`, and saves the
    averaged codec to `out/final`. A run that was killed goes on from its last checkpoint.

    Returns the codec in evaluation mode. Raises LociError on unusable data or directories.
    """
    train, test = (
        torch.from_numpy(load_recordings(Path(data) / part).frames).flatten(0, 1)
        for part in ("train", "test")
    )
    return fit_codec(train, test, out, config or CodecTraining())


def fit_codec(
    train: UInt8[Tensor, "n h w 3"],
    test: UInt8[Tensor, "m h w 3"],
    out: Path,
    config: CodecTraining,
) -> FrameCodec:
    """`train_codec` on frames already in memory."""
    accelerator = accelerated(matmul_type(config.precision))
    run = RunDirectory(out, writes=accelerator.is_main_process)
    learner = _begun(run, train, config, accelerator.device)
    codec, optimizer, ema = learner
    model, optimizer = accelerator.prepare(codec, optimizer)
    sample = _spread(test, config.held_out_frames)

    run.start_clock()
    while (fraction := agreed(config.budget.fraction(run.step, run.seconds), accelerator)) < 1:
        rate = config.rate.apply(optimizer, run.step, fraction)
        generator = step_generator(config.seed, run.step, accelerator.process_index)
        frames = _batch(train, config.batch, generator).to(accelerator.device)
        noise = config.latent_noise * _latent_noise(codec, frames, generator)
        output = model(frames, noise)
        loss = F.l1_loss(output, frames) + F.mse_loss(output, frames)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), config.clip_gradient)
        optimizer.step()
        ema.update(codec)
        run.tick(loss.item())
        if run.due("log", config.log_seconds):
            run.log(loss=loss.item(), rate=rate)
        if run.due("evaluate", config.evaluate_seconds) and run.writes:
            run.log(psnr=_evaluate(_averaged(ema, config), sample, run))
        if run.due("checkpoint", config.checkpoint_seconds):
            learner.save(run)
    learner.save(run)
    return _finish(_averaged(ema, config), train, sample, run)


def psnr(output: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each frame in dB, for values in [-1, 1]."""
    error = (output.clamp(-1, 1) - truth).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def to_float(frames: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Stored frames to values in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def _begun(
    run: RunDirectory, train: Tensor, config: CodecTraining, device: torch.device
) -> TrainState[FrameCodec]:
    """A new codec that starts at the principal components, or the one last saved."""
    torch.manual_seed(config.seed)
    codec = FrameCodec(config.codec).to(device)
    optimizer = torch.optim.Adam(codec.parameters(), lr=config.rate.peak, betas=(0.9, 0.95))
    learner = TrainState(codec, optimizer, Ema(codec, config.ema))
    if learner.resume(run):
        return learner
    codec.set_linear_path(_patches(train, codec.spatial_factor).to(device))
    return TrainState(codec, optimizer, Ema(codec, config.ema))


def _finish(codec: FrameCodec, train: Tensor, sample: Tensor, run: RunDirectory) -> FrameCodec:
    """Measures the latents' statistics over the training data, and saves."""
    latents = codec.encode(to_float(_spread(train, FRAMES_FOR_STATISTICS)).unsqueeze(2))
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    codec.set_normalisation(tuple(mean.tolist()), tuple(std.tolist()))
    if run.writes:
        run.log(psnr=_evaluate(codec, sample, run), final=True)
        codec.save_pretrained(run.path / "final")
    return codec


def _averaged(ema: Ema, config: CodecTraining) -> FrameCodec:
    codec = FrameCodec(config.codec)
    ema.copy_to(codec)
    return codec.eval().requires_grad_(False)


def _evaluate(codec: FrameCodec, sample: Tensor, run: RunDirectory) -> float:
    """Mean PSNR over held-out frames; also writes the sheet, true above reconstruction."""
    truth = to_float(sample)
    output = codec.decode(codec.encode(truth.unsqueeze(2))).squeeze(2)
    shown = torch.linspace(0, len(truth) - 1, min(32, len(truth))).long()
    rows = []
    for part in shown.split(8):
        rows += [truth[part], output[part]]
    run.sheet("reconstructions", rows)
    return psnr(output, truth).mean().item()


def _batch(frames: Tensor, size: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(0, len(frames), (size,), generator=generator)
    return to_float(frames[chosen])


def _latent_noise(codec: FrameCodec, frames: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of the frames' latents."""
    batch, _, height, width = frames.shape
    factor = codec.spatial_factor
    shape = (batch, codec.latent_channels, height // factor, width // factor)
    return torch.randn(shape, generator=generator).to(frames.device)


def _spread(frames: Tensor, count: int) -> Tensor:
    """`count` frames evenly spaced over the data."""
    return frames[torch.linspace(0, len(frames) - 1, min(count, len(frames))).long()]


def _patches(frames: Tensor, factor: int) -> Float[Tensor, "n patch"]:
    """Folded patches spread over the data."""
    folded = F.pixel_unshuffle(to_float(_spread(frames, FRAMES_FOR_COMPONENTS)), factor)
    return _spread(folded.permute(0, 2, 3, 1).flatten(0, 2), PATCHES_FOR_COMPONENTS)
