"""Trains the per-frame codec: noisy latents, reconstruction, perceptual and adversarial losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.data.recordings import load_recordings
from loci.errors import LociError
from loci.objects.models.efficientnet import LiteFeatures
from loci.train.backbone import load_lite_weights
from loci.train.codec_losses import (
    PatchDiscriminator,
    energy_loss,
    matching_loss,
    perceptual_loss,
    train_discriminator,
)
from loci.train.run_directory import RunDirectory
from loci.train.trainer import Step, Task, Trainer, TrainerConfig

FRAMES_FOR_COMPONENTS, PATCHES_FOR_COMPONENTS = 1500, 50_000
FRAMES_FOR_STATISTICS = 4096


@dataclass(frozen=True)
class CodecTraining(TrainerConfig):
    """How to train a codec on recordings.

    Attributes:
        codec: sizes of the autoencoder.
        init_from: a codec folder whose weights to begin with; without it, from nothing. The encoder
            stays as it is, so that world models trained on its latents can use the new decoder.
        latent_noise: noise on the latents while training, in units of each channel's deviation.
        faded_detail: most that the later latent channels are faded while training, so that the
            decoder restores what a world model's averages lack.
        perceptual: weight of the distance in features of a pretrained network.
        energy: weight of the distance in the deviation of fine texture.
        adversarial: weight of a discriminator's score; its feature maps get twice as much.
        discriminator_rate: its learning rate.
        evaluation_frames: held-out frames that are reconstructed at an evaluation.
    """

    out: Path = Path("runs/codec")
    codec: FrameCodecConfig = FrameCodecConfig()
    init_from: Path | None = None
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    batch_size: int = 32
    latent_noise: float = 0.05
    faded_detail: float = 0.0
    perceptual: float = 0.0
    energy: float = 0.0
    adversarial: float = 0.0
    discriminator_rate: float = 3e-4
    evaluation_frames: int = 256
    log_seconds: float = 20.0
    evaluate_seconds: float = 90.0


CONFIGS = {
    "doom": CodecTraining(
        codec=FrameCodecConfig(
            patch_size=4, widths=(64, 128, 192), latent_channels=48, linear_encoder=True
        ),
        learning_rate=8e-4,
        batch_size=5,
        latent_noise=0.12,
        faded_detail=0.6,
        perceptual=0.4,
        energy=1.0,
        adversarial=0.06,
    ),
    "smooth": CodecTraining(),
}


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
        self.model = self._codec().to(device)
        decoder = [self.model.network.decoder, self.model.synthesis]
        trained = decoder if config.codec.linear_encoder or config.init_from else [self.model]
        self.model.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)
        parameters = [p for module in trained for p in module.parameters()]
        betas = (0.5, 0.95) if config.adversarial else (0.9, 0.95)
        self.optimizer = torch.optim.Adam(parameters, config.learning_rate, betas=betas)
        self.features: LiteFeatures | None = None
        if config.perceptual:
            self.features = LiteFeatures().eval().requires_grad_(False)
            load_lite_weights(self.features)
            self.features.to(device)
        self.discriminator: PatchDiscriminator | None = None
        if config.adversarial:
            self.discriminator = PatchDiscriminator().to(device)
            self.discriminator_optimizer = torch.optim.Adam(
                self.discriminator.parameters(), config.discriminator_rate, betas=(0.5, 0.9)
            )

    def _codec(self) -> FrameCodec:
        config = self.config
        if config.init_from is not None:
            codec = FrameCodec.from_pretrained(config.init_from)
            if codec.config != config.codec:
                raise LociError(f"{config.init_from}: {codec.config}, expected {config.codec}")
            return codec.train()
        codec = FrameCodec(config.codec)
        patches = patches_of(spread(self.train, FRAMES_FOR_COMPONENTS), codec.spatial_factor)
        codec.set_linear_path(patches)
        if config.adversarial:  # zeros would keep the network from learning texture for long
            torch.nn.init.normal_(codec.network.decoder.conv_out.weight, std=0.01)
        return codec

    def batch(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Frames `[b, 3, h, w]`, noise in the shape of their latents, in units of each channel's
        deviation, and what is kept of each channel `[b, c, 1, 1]`."""
        config, rng = self.config, step.rng
        size, channels = config.batch_size, self.model.latent_channels
        chosen = torch.randint(0, len(self.train), (size,), generator=rng)
        frames = to_float(self.train[chosen.numpy()])
        rows, columns = (side // self.model.spatial_factor for side in frames.shape[2:])
        noise = config.latent_noise * torch.randn(size, channels, rows, columns, generator=rng)
        detail = torch.linspace(0, 1, channels).sqrt().view(1, -1, 1, 1)
        share = config.faded_detail * torch.rand(size, 1, 1, 1, generator=rng)
        if config.faded_detail:  # a third stays clean
            degraded = torch.rand(size, 1, 1, 1, generator=rng) < 2 / 3
            noise, share = noise * degraded, share * degraded
        return frames.to(step.device), noise.to(step.device), (1 - share * detail).to(step.device)

    def loss(
        self, model: Callable[..., Tensor], batch: tuple[Tensor, Tensor, Tensor], step: Step
    ) -> dict[str, Tensor]:
        config = self.config
        frames, noise, kept = batch
        output = model(frames, noise, kept)
        loss = F.l1_loss(output, frames) + F.mse_loss(output, frames)
        losses = {"reconstruction": loss.detach()}
        if self.features is not None:
            loss = loss + config.perceptual * perceptual_loss(self.features, output, frames)
        if config.energy:
            loss = loss + config.energy * energy_loss(output, frames)
        if self.discriminator is not None:
            losses["discriminator"] = train_discriminator(
                self.discriminator, self.discriminator_optimizer, frames, output.detach()
            )
            scores, maps = self.discriminator(output)
            with torch.no_grad():
                true_maps = self.discriminator(frames)[1]
            adversarial = 2 * matching_loss(maps, true_maps) - scores.mean()
            # From the first step on it would learn from scores that mean nothing yet.
            grown = min(1.0, max(0.0, step.number / config.warmup_steps - 1))
            loss = loss + grown * config.adversarial * adversarial
        return {"loss": loss, **losses}

    def state_dict(self) -> dict[str, Any]:
        if self.discriminator is None:
            return {}
        optimizer = self.discriminator_optimizer.state_dict()
        return {"discriminator": self.discriminator.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["optimizer"])

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
        """Latents get mean 0 and deviation 1 over the training frames; those of a linear encoder
        stay as they are, and so do those of a codec that was started from."""
        if self.config.codec.linear_encoder or self.config.init_from:
            return
        parts = to_float(spread(self.train, FRAMES_FOR_STATISTICS)).split(256)
        device = next(model.parameters()).device
        latents = torch.cat([model.encode(part.to(device).unsqueeze(2)).cpu() for part in parts])
        mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
        model.set_normalization(tuple(mean.tolist()), tuple(std.tolist()))

    def save(self, model: FrameCodec, folder: Path) -> None:
        model.save_pretrained(folder)


def psnr(output: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each frame in dB, for values in [-1, 1]."""
    error = (output.clamp(-1, 1) - truth).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def to_float(frames: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Stored frames to values in [-1, 1]."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def spread(frames: UInt8[np.ndarray, "n h w 3"], count: int) -> UInt8[np.ndarray, "m h w 3"]:
    """At most `count` frames, evenly spaced over the data."""
    return frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]


def patches_of(frames: UInt8[np.ndarray, "n h w 3"], factor: int) -> Float[Tensor, "n patch"]:
    """Folded patches spread over the frames."""
    folded = F.pixel_unshuffle(to_float(frames), factor).permute(0, 2, 3, 1).flatten(0, 2)
    count = min(PATCHES_FOR_COMPONENTS, len(folded))
    return folded[torch.linspace(0, len(folded) - 1, count).long()]
