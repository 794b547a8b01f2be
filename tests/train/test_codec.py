"""Codec training at toy size: it learns, it saves, and a killed run goes on as if never killed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.errors import LociError
from loci.train.codec import CodecTraining, fit_codec, psnr, to_float
from tests.train.killing import killed

pytest.importorskip("accelerate", reason="the extra `train` is not installed")

TINY = CodecTraining(
    codec=FrameCodecConfig(patch_size=8, widths=(8,), norm_groups=4, latent_channels=4),
    steps=6,
    batch_size=4,
    evaluation_frames=8,
    precision="float32",
    log_seconds=0,
    evaluate_seconds=0,
    checkpoint_seconds=1e9,
)


def frames(count: int, seed: int) -> np.ndarray:
    """Smooth random pictures, 16x16."""
    small = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, size=16, mode="bilinear")
    return (large * 255).byte().permute(0, 2, 3, 1).numpy()


def weights(codec: FrameCodec) -> Tensor:
    return torch.cat([p.flatten() for p in codec.parameters()])


def test_it_learns_and_saves(tmp_path: Path) -> None:
    codec = fit_codec(frames(40, 0), frames(8, 1), replace(TINY, out=tmp_path))
    loaded = FrameCodec.from_pretrained(tmp_path / "final")
    assert torch.equal(weights(codec), weights(loaded))
    truth = to_float(frames(8, 1))
    output = loaded.decode(loaded.encode(truth.unsqueeze(2))).squeeze(2)
    assert psnr(output, truth).mean() > 15
    latents = loaded.encode(to_float(frames(40, 0)).unsqueeze(2))
    torch.testing.assert_close(latents.std(dim=(0, 2, 3, 4)), torch.ones(4), rtol=0.05, atol=0)
    assert (tmp_path / "reconstructions.png").exists()


def test_a_killed_run_goes_on_as_if_never_killed(tmp_path: Path) -> None:
    data = frames(40, 0), frames(8, 1)
    whole = fit_codec(*data, replace(TINY, out=tmp_path / "whole"))
    with killed(after=3):
        fit_codec(*data, replace(TINY, out=tmp_path / "killed"))
    assert not (tmp_path / "killed" / "final").exists()
    resumed = fit_codec(*data, replace(TINY, out=tmp_path / "killed"))
    assert torch.equal(weights(resumed), weights(whole))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    data = frames(40, 0), frames(8, 1)
    first = fit_codec(*data, replace(TINY, out=tmp_path))
    assert torch.equal(weights(fit_codec(*data, replace(TINY, out=tmp_path))), weights(first))


SHARP = replace(
    TINY,
    codec=FrameCodecConfig(4, (8, 8), norm_groups=4, latent_channels=4, linear_encoder=True),
    faded_detail=0.5,
    energy=1.0,
    adversarial=0.1,
    warmup_steps=1,
)


def test_a_sharp_codec_learns_with_a_discriminator_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    data = frames(40, 0), frames(8, 1)
    whole = fit_codec(*data, replace(SHARP, out=tmp_path / "whole"))
    with killed(after=3):
        fit_codec(*data, replace(SHARP, out=tmp_path / "killed"))
    resumed = fit_codec(*data, replace(SHARP, out=tmp_path / "killed"))
    assert torch.equal(weights(resumed), weights(whole))
    without = fit_codec(*data, replace(SHARP, out=tmp_path / "without", adversarial=0.0))
    assert not torch.equal(weights(without), weights(whole))
    assert torch.equal(without.analysis.weight, whole.analysis.weight)


def test_a_decoder_trained_on_keeps_the_encoder(tmp_path: Path) -> None:
    data = frames(40, 0), frames(8, 1)
    first = fit_codec(*data, replace(SHARP, out=tmp_path / "first"))
    again = replace(SHARP, out=tmp_path / "again", init_from=tmp_path / "first" / "final", seed=1)
    second = fit_codec(frames(40, 3), data[1], again)
    clip = to_float(data[1]).unsqueeze(2)
    assert torch.equal(second.encode(clip), first.encode(clip))
    assert not torch.equal(second.decode(first.encode(clip)), first.decode(first.encode(clip)))
    with pytest.raises(LociError, match="expected"):
        fit_codec(*data, replace(again, codec=TINY.codec, out=tmp_path / "other"))


def test_noise_makes_a_difference(tmp_path: Path) -> None:
    data = frames(40, 0), frames(8, 1)
    noisy = fit_codec(*data, replace(TINY, out=tmp_path / "a"))
    quiet = fit_codec(*data, replace(TINY, out=tmp_path / "b", latent_noise=0.0))
    assert not torch.equal(weights(noisy), weights(quiet))


def test_psnr_of_known_errors() -> None:
    truth = torch.zeros(2, 3, 4, 4)
    output = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 0.02)])
    torch.testing.assert_close(psnr(output, truth), torch.tensor([20.0, 40.0]))
