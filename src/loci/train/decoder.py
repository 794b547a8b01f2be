"""Finetuning of a codec's decoder on what a world model generates: averages made sharp, and still.

A decoder that has only seen encoded frames meets other latents in a walk: fine channels are faded,
and waver from frame to frame. Here it learns from rollouts beside the frames they stand for, two
consecutive frames at a time, so that texture that flickers or sticks to the screen costs as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from loci.codecs.frame import FrameCodec
from loci.data.latents import latent_walks
from loci.data.recordings import Recordings, load_recordings
from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME, load_config
from loci.io.models import find_model
from loci.objects.models.efficientnet import LiteFeatures
from loci.train.backbone import load_lite_weights
from loci.train.codec import psnr, to_float
from loci.train.codec_losses import (
    PatchDiscriminator,
    energy_loss,
    high_pass,
    matching_loss,
    perceptual_loss,
    train_discriminator,
)
from loci.train.run_directory import RunDirectory
from loci.train.trainer import Step, Task, Trainer, TrainerConfig
from loci.train.world.generated import GeneratedLatents, generate_latents
from loci.world.config import WorldConfig
from loci.world.transformer import WorldTransformer

TEST_ROLLOUTS = 2


@dataclass(frozen=True)
class DecoderTraining(TrainerConfig):
    """How to finetune a decoder. The encoder and the world model stay as they are.

    Attributes:
        world: a model folder or hub id: its codec is finetuned, on the latents its transformer
            generates.
        more_data: folders of more recordings, whose frames are drawn as often as those of `data`.
        rollouts: how often a dozen recorded walks are continued for 64 frames, to learn from.
        generated: share of the batch's pairs that were generated; the others are encoded.
        latent_noise: noise on encoded latents, in units of each channel's deviation.
        reconstruction: weight of the L1 and squared distances.
        temporal: weight of the L1 distance of the differences between consecutive frames.
        perceptual: weight of the distance in features of a pretrained network.
        energy: weight of the distance in the deviation of fine texture.
        adversarial: weight of a discriminator's score; its feature maps get twice as much.
        discriminator_rate: its learning rate.
    """

    out: Path = Path("runs/decoder")
    world: Path = Path("doom")
    more_data: tuple[Path, ...] = ()
    rollouts: int = 24
    minutes: float = 60.0
    learning_rate: float = 3e-4
    warmup_steps: int = 50
    hold_fraction: float = 0.5
    batch_size: int = 4
    generated: float = 0.75
    latent_noise: float = 0.05
    reconstruction: float = 1.0
    temporal: float = 1.0
    perceptual: float = 0.4
    energy: float = 1.0
    adversarial: float = 0.06
    discriminator_rate: float = 3e-4
    log_seconds: float = 20.0
    evaluate_seconds: float = 300.0


CONFIGS = {"doom": DecoderTraining()}


def train_decoder(config: DecoderTraining) -> FrameCodec:
    """Finetune on the recordings in `data/train`, evaluate on those in `data/test`, and save the
    averaged codec to `out/final`. Rollouts are kept in `out`. A run that was stopped goes on from
    its last checkpoint.

    Raises:
        LociError: on unusable data, or walks too short for a rollout.
    """
    folder = find_model(config.world, CONFIG_NAME)
    trainer = Trainer(config)
    codec = FrameCodec.from_pretrained(folder / "codec")
    model = WorldTransformer.from_pretrained(folder / "transformer").float()
    world = load_config(folder / CONFIG_NAME, WorldConfig)
    codec.to(trainer.device)
    model.to(trainer.device)

    def pairs(folder: Path, rollouts: int, name: str) -> FramePairs:
        recordings = load_recordings(folder)
        kept = config.out / f"generated-{name}.safetensors"
        if not kept.is_file():
            walks = latent_walks(
                recordings,
                codec,
                config.out.parent / "latents",
                len(recordings.frames),
                world.action_scale,
            )
            generate_latents(model, walks, world, rollouts, config.seed + rollouts).save(kept)
        return FramePairs(recordings, GeneratedLatents.load(kept))

    # More recordings share the rollouts equally with the first.
    folders = [config.data / "train", *config.more_data]
    share = -(-config.rollouts // len(folders))
    train = [pairs(folder, share, f"train-{i}") for i, folder in enumerate(folders)]
    test = pairs(config.data / "test", TEST_ROLLOUTS, "test")
    return trainer.fit(DecoderTask(config, codec, train, test, trainer.device)).codec


class PairBatch(NamedTuple):
    """Latents `[2 b, c, h, w]` and frames `[2 b, 3, h, w]`, in pairs of consecutive ones."""

    latents: Tensor
    frames: Tensor


class FramePairs:
    """Consecutive frames of recordings, and latents generated or encoded of them."""

    def __init__(self, recordings: Recordings, generated: GeneratedLatents) -> None:
        if generated.latents.shape[1] < 2:
            raise LociError("rollouts of one frame: expected pairs")
        self.frames, self.generated = recordings.frames, generated

    def generated_pair(self, rollout: int, at: int) -> tuple[Tensor, Tensor]:
        made = self.generated
        frames = self.frames[int(made.walk[rollout])][made.frame[rollout, at : at + 2].numpy()]
        return made.latents[rollout, at : at + 2].float(), to_float(frames)

    def random_generated(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rollouts, length = self.generated.latents.shape[:2]
        rollout = int(torch.randint(rollouts, (), generator=rng))
        return self.generated_pair(rollout, int(torch.randint(length - 1, (), generator=rng)))

    def random_frames(self, rng: torch.Generator) -> Tensor:
        walks, length = self.frames.shape[:2]
        walk = int(torch.randint(walks, (), generator=rng))
        at = int(torch.randint(length - 1, (), generator=rng))
        return to_float(self.frames[walk][at : at + 2])


class LatentsToFrames(nn.Module):
    """A codec's decoder, without the clamp of `decode`, as one module to train."""

    def __init__(self, codec: FrameCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Float[Tensor, "n c hl wl"]) -> Float[Tensor, "n 3 h w"]:
        return self.codec.to_frames(latents * self.codec.latents_std + self.codec.latents_mean)


class DecoderTask(Task[LatentsToFrames]):
    """Pairs of frames, the decoder that shows them, and a discriminator that sees both."""

    def __init__(
        self,
        config: DecoderTraining,
        codec: FrameCodec,
        train: Sequence[FramePairs],
        test: FramePairs,
        device: torch.device,
    ) -> None:
        self.config, self.train, self.test = config, train, test
        self.model = LatentsToFrames(codec.train()).to(device)
        decoder = [codec.network.decoder, codec.synthesis]
        for module in decoder:
            module.requires_grad_(True)
        parameters = [p for module in decoder for p in module.parameters()]
        self.optimizer = torch.optim.Adam(parameters, config.learning_rate, betas=(0.5, 0.95))
        self.features = LiteFeatures().eval().requires_grad_(False)
        load_lite_weights(self.features)
        self.features.to(device)
        self.discriminator = PatchDiscriminator(frames=2).to(device)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), config.discriminator_rate, betas=(0.5, 0.9)
        )

    def batch(self, step: Step) -> PairBatch:
        config, rng = self.config, step.rng
        latents, frames = [], []
        for _ in range(config.batch_size):
            pairs = self.train[int(torch.randint(len(self.train), (), generator=rng))]
            if float(torch.rand((), generator=rng)) < config.generated:
                latent, frame = pairs.random_generated(rng)
            else:
                frame = pairs.random_frames(rng)
                latent = self._encoded(frame, rng)
            latents.append(latent)
            frames.append(frame)
        return PairBatch(torch.cat(latents).to(step.device), torch.cat(frames).to(step.device))

    def _encoded(self, frames: Tensor, rng: torch.Generator) -> Tensor:
        codec = self.model.codec
        device = codec.latents_mean.device
        latents = codec.encode(frames.unsqueeze(2).to(device)).squeeze(2).cpu()
        spread = latents.std(dim=(0, 2, 3), keepdim=True)
        noise = torch.randn(latents.shape, generator=rng)
        return latents + self.config.latent_noise * spread * noise

    def loss(self, model: Callable[..., Tensor], batch: PairBatch, step: Step) -> dict[str, Tensor]:
        config, frames = self.config, batch.frames
        output = model(batch.latents)
        reconstruction = F.l1_loss(output, frames) + F.mse_loss(output, frames)
        temporal = F.l1_loss(change(output), change(frames))
        loss = config.reconstruction * reconstruction + config.temporal * temporal
        loss = loss + config.perceptual * perceptual_loss(self.features, output, frames)
        loss = loss + config.energy * energy_loss(output, frames)
        losses = {"reconstruction": reconstruction.detach(), "temporal": temporal.detach()}
        losses["discriminator"] = train_discriminator(
            self.discriminator,
            self.discriminator_optimizer,
            paired(frames),
            paired(output.detach()),
        )
        scores, maps = self.discriminator(paired(output))
        with torch.no_grad():
            true_maps = self.discriminator(paired(frames))[1]
        adversarial = 2 * matching_loss(maps, true_maps) - scores.mean()
        # From the first step on it would learn from scores that mean nothing yet.
        grown = min(1.0, max(0.0, step.number / config.warmup_steps - 1))
        return {"loss": loss + grown * config.adversarial * adversarial, **losses}

    def state_dict(self) -> dict[str, Any]:
        optimizer = self.discriminator_optimizer.state_dict()
        return {"discriminator": self.discriminator.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.discriminator_optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def evaluate(self, model: LatentsToFrames, run: RunDirectory) -> dict[str, float]:
        """On held-out rollouts: PSNR, fine texture and change from frame to frame as shares of the
        true frames'; also writes a sheet, true above generated."""
        made, codec = self.test.generated, model.codec
        device = codec.latents_mean.device
        outputs, truths = [], []
        for rollout in range(len(made.latents)):
            for at in range(0, made.latents.shape[1] - 1, 16):
                latents, frames = self.test.generated_pair(rollout, at)
                outputs.append(codec.decode(latents.unsqueeze(2).to(device)).squeeze(2).cpu())
                truths.append(frames)
        output, truth = torch.cat(outputs), torch.cat(truths)
        shown = torch.linspace(0, len(output) - 1, min(32, len(output))).long()
        rows: list[Tensor] = []
        for part in shown.split(8):
            rows += [truth[part], output[part]]
        run.sheet("generated", rows)
        fine = high_pass(output).square().mean() / high_pass(truth).square().mean()
        return {
            "psnr": psnr(output, truth).mean().item(),
            "fine": fine.sqrt().item(),
            "change": (change(output).abs().mean() / change(truth).abs().mean()).item(),
            "wrong_change": F.l1_loss(change(output), change(truth)).item(),
        }

    def save(self, model: LatentsToFrames, folder: Path) -> None:
        model.codec.save_pretrained(folder)


def paired(images: Float[Tensor, "2b 3 h w"]) -> Float[Tensor, "b 6 h w"]:
    """Consecutive frames in the channels of one image."""
    return images.unflatten(0, (-1, 2)).flatten(1, 2)


def change(images: Float[Tensor, "2b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The second frame of each pair less the first."""
    first, second = images.unflatten(0, (-1, 2)).unbind(1)
    return second - first
