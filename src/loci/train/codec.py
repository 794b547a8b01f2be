"""Training of the per-frame codec: reconstruct frames through slightly noisy latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.data.recordings import load_recordings
from loci.train.run_directory import RunDirectory
from loci.train.trainer import Step, Task, Trainer, TrainerConfig

FRAMES_FOR_COMPONENTS, PATCHES_FOR_COMPONENTS = 1500, 50_000
FRAMES_FOR_STATISTICS = 4096


@dataclass(frozen=True)
class CodecTraining(TrainerConfig):
    """How to train a codec on recordings.

    Attributes:
        codec: sizes of the autoencoder.
        latent_noise: on the latents while training, in units of each channel's deviation.
        evaluation_frames: held-out frames that are reconstructed at an evaluation.
    """

    out: Path = Path("runs/codec")
    codec: FrameCodecConfig = FrameCodecConfig()
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    batch_size: int = 32
    latent_noise: float = 0.05
    evaluation_frames: int = 256
    log_seconds: float = 20.0
    evaluate_seconds: float = 90.0


CONFIGS = {"doom": CodecTraining()}


def train_codec(config: CodecTraining) -> FrameCodec:
    """Train on the recordings in `data/train`, evaluate on those in `data/test`, and save the
    averaged codec to `out/final`. A run that was stopped goes on from its last checkpoint.

    Returns:
        The averaged codec, in evaluation mode, on the device it was trained on.

    Raises:
        LociError: on unusable data or directories.
    """
    train, test = (load_recordings(config.data / split).frames for split in ("train", "test"))
    train, test = (part.reshape(-1, *part.shape[2:]) for part in (train, test))
    return fit_codec(train, test, config)


def fit_codec(
    train: UInt8[np.ndarray, "n h w 3"], test: UInt8[np.ndarray, "m h w 3"], config: CodecTraining
) -> FrameCodec:
    """`train_codec` on frames in memory, or mapped into it."""
    trainer = Trainer(config)
    return trainer.fit(CodecTask(config, train, test, trainer.device))


class CodecTask(Task[FrameCodec]):
    """Frames, the codec that reconstructs them, and held-out frames to evaluate it on."""

    def __init__(
        self,
        config: CodecTraining,
        train: UInt8[np.ndarray, "n h w 3"],
        test: UInt8[np.ndarray, "m h w 3"],
        device: torch.device,
    ) -> None:
        self.config, self.train = config, train
        self.test = to_float(spread(test, config.evaluation_frames)).to(device)
        self.model = FrameCodec(config.codec).to(device)
        patches = patches_of(spread(train, FRAMES_FOR_COMPONENTS), self.model.spatial_factor)
        self.model.set_linear_path(patches.to(device))
        parameters = self.model.parameters()
        self.optimizer = torch.optim.Adam(parameters, config.learning_rate, betas=(0.9, 0.95))

    def batch(self, step: Step) -> tuple[Tensor, Tensor]:
        """Frames `[b, 3, h, w]` and standard normal noise in the shape of their latents."""
        size = self.config.batch_size
        chosen = torch.randint(0, len(self.train), (size,), generator=step.rng)
        frames = to_float(self.train[chosen.numpy()])
        rows, columns = (side // self.model.spatial_factor for side in frames.shape[2:])
        shape = (size, self.model.latent_channels, rows, columns)
        noise = torch.randn(shape, generator=step.rng)
        return frames.to(step.device), noise.to(step.device)

    def loss(
        self, model: Callable[..., Tensor], batch: tuple[Tensor, Tensor], step: Step
    ) -> dict[str, Tensor]:
        frames, noise = batch
        output = model(frames, self.config.latent_noise * noise)
        return {"loss": F.l1_loss(output, frames) + F.mse_loss(output, frames)}

    @torch.no_grad()
    def evaluate(self, model: FrameCodec, run: RunDirectory) -> dict[str, float]:
        """Mean PSNR over held-out frames; also writes a sheet, true above reconstruction."""
        output = model.decode(model.encode(self.test.unsqueeze(2))).squeeze(2)
        shown = torch.linspace(0, len(output) - 1, min(32, len(output))).long()
        rows: list[Tensor] = []
        for part in shown.split(8):
            rows += [self.test[part], output[part]]
        run.sheet("reconstructions", rows)
        return {"psnr": psnr(output, self.test).mean().item()}

    @torch.no_grad()
    def finish(self, model: FrameCodec) -> None:
        """Latents get mean 0 and deviation 1 over the training frames."""
        parts = to_float(spread(self.train, FRAMES_FOR_STATISTICS)).split(256)
        device = next(model.parameters()).device
        latents = torch.cat([model.encode(part.to(device).unsqueeze(2)).cpu() for part in parts])
        mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
        model.set_normalisation(tuple(mean.tolist()), tuple(std.tolist()))

    def save(self, model: FrameCodec, folder: Path) -> None:
        model.save_pretrained(folder)


def psnr(output: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each frame in dB, for values in [-1, 1]."""
    error = (output.clamp(-1, 1) - truth).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def to_float(frames: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Stored frames to values in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def spread(frames: UInt8[np.ndarray, "n h w 3"], count: int) -> UInt8[np.ndarray, "m h w 3"]:
    """At most `count` frames, evenly spaced over the data."""
    return frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]


def patches_of(frames: UInt8[np.ndarray, "n h w 3"], factor: int) -> Float[Tensor, "n patch"]:
    """Folded patches spread over the frames."""
    folded = F.pixel_unshuffle(to_float(frames), factor).permute(0, 2, 3, 1).flatten(0, 2)
    count = min(PATCHES_FOR_COMPONENTS, len(folded))
    return folded[torch.linspace(0, len(folded) - 1, count).long()]
