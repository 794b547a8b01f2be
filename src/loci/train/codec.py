"""Training of the per-frame codec: reconstruct frames through slightly disturbed latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from loci.errors import LociError
from loci.train.run import Budget, Ema, LearningRate, RunDirectory, step_generator
from loci.world.frame_codec import FrameCodec, FrameCodecConfig

FRAMES_FOR_COMPONENTS = 1500
FRAMES_FOR_STATISTICS = 4096


@dataclass(frozen=True)
class CodecTraining:
    """How to train a codec. `latent_noise` is in units of each latent channel's deviation."""

    codec: FrameCodecConfig = FrameCodecConfig()
    budget: Budget = Budget()
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


def train_codec(data: Path, out: Path, config: CodecTraining = CodecTraining()) -> FrameCodec:
    """Trains on the shards under `data/train`, watches those under `data/test`, and saves the
    averaged codec to `out/final`. A run that was killed goes on from its last checkpoint.

    Returns the codec in evaluation mode. Raises LociError on unusable data or directories.
    """
    train = read_frames(Path(data) / "train")
    test = read_frames(Path(data) / "test")
    return fit_codec(train, test, out, config)


def fit_codec(
    train: UInt8[Tensor, "n h w 3"],
    test: UInt8[Tensor, "m h w 3"],
    out: Path,
    config: CodecTraining = CodecTraining(),
) -> FrameCodec:
    """`train_codec` on frames already in memory."""
    from accelerate import Accelerator
    from accelerate.utils import broadcast

    accelerator = Accelerator()
    run = RunDirectory(out, writes=accelerator.is_main_process)
    device, rank = accelerator.device, accelerator.process_index
    codec = FrameCodec(config.codec)
    optimizer = torch.optim.Adam(codec.parameters(), lr=config.rate.peak, betas=(0.9, 0.95))
    codec.to(device)
    ema = Ema(codec, config.ema)
    state = run.resume()
    if state is not None:
        codec.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
    else:
        codec.set_linear_path(_patches(train, codec.spatial_factor, config.seed).to(device))
        ema = Ema(codec, config.ema)
    model, optimizer = accelerator.prepare(codec, optimizer)
    sample = _spread(test, config.held_out_frames)

    def save() -> None:
        run.save(
            model=codec.state_dict(), optimizer=optimizer.state_dict(), ema=ema.state_dict()
        )

    run.start_clock()
    while True:
        progress = torch.tensor(config.budget.fraction(run.step, run.seconds), device=device)
        fraction = float(broadcast(progress))  # processes must agree on when to stop
        if fraction >= 1:
            break
        rate = config.rate.apply(optimizer, run.step, fraction)
        generator = step_generator(config.seed, run.step, rank)
        frames = _batch(train, config.batch, generator).to(device)
        side = (frames.shape[2] // codec.spatial_factor, frames.shape[3] // codec.spatial_factor)
        noise = torch.randn(config.batch, codec.latent_channels, *side, generator=generator)
        output = model(frames, config.latent_noise * noise.to(device))
        loss = F.l1_loss(output, frames) + F.mse_loss(output, frames)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), config.clip_gradient)
        optimizer.step()
        ema.update(codec)
        run.tick()
        if run.due("log", config.log_seconds):
            run.log(loss=loss.item(), rate=rate)
        if run.due("evaluate", config.evaluate_seconds) and run.writes:
            averaged = _averaged(ema, config)
            run.log(psnr=_evaluate(averaged, sample, run))
        if run.due("checkpoint", config.checkpoint_seconds):
            save()
    save()
    return _finish(ema, config, train, sample, run)


def read_frames(folder: Path) -> UInt8[Tensor, "n h w 3"]:
    """All frames of a folder of shards, in memory."""
    raise NotImplementedError


def psnr(
    output: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each frame in dB, for values in [-1, 1]."""
    error = (output.clamp(-1, 1) - truth).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def to_float(frames: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Stored frames to values in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def _finish(
    ema: Ema,
    config: CodecTraining,
    train: Tensor,
    sample: Tensor,
    run: RunDirectory,
) -> FrameCodec:
    codec = _averaged(ema, config)
    latents = codec.encode(to_float(_spread(train, FRAMES_FOR_STATISTICS)).unsqueeze(2))
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    codec.set_normalisation(tuple(mean.tolist()), tuple(std.tolist()))
    run.log(psnr=_evaluate(codec, sample, run), final=True)
    if run.writes:
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


def _spread(frames: Tensor, count: int) -> Tensor:
    """`count` frames evenly spaced over the data."""
    return frames[torch.linspace(0, len(frames) - 1, min(count, len(frames))).long()]


def _patches(frames: Tensor, factor: int, seed: int) -> Float[Tensor, "n patch"]:
    """A random sample of folded patches of the data."""
    folded = F.pixel_unshuffle(to_float(_spread(frames, FRAMES_FOR_COMPONENTS)), factor)
    patches = folded.permute(0, 2, 3, 1).flatten(0, 2)
    chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))
    return patches[chosen[:50_000]]
