"""Training of stage 2's autoencoder at toy size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor

from loci.objects.models.slat_decoders import GaussianDecoderConfig, MeshDecoderConfig, TorsoConfig
from loci.objects.models.slat_encoder import CHANNELS, SlatEncoderConfig
from loci.train.slat.parts import SlatVAE, SlatVAEConfig
from loci.train.slat.vae import SlatVAETraining, draw_objects, fit_slat_vae, slat_vae_losses
from loci.train.slat.vae_data import SlatDataset
from tests.train.killing import killed
from tests.train.toy_objects import toy_set

TORSO = TorsoConfig(dim=24, blocks=1, heads=2, resolution=8)
TINY = SlatVAETraining(
    parts=SlatVAEConfig(
        SlatEncoderConfig(replace(TORSO, channels=CHANNELS)),
        GaussianDecoderConfig(TORSO, gaussians=4, scale_start=0.03, rotation_rate=1.0),
        MeshDecoderConfig(TORSO, narrowing=(3,), norm_groups=4, closed=True),
    ),
    steps=4,
    learning_rate=3e-3,
    warmup_steps=2,
    hold_fraction=0.0,
    samples=256,
    render_size=16,
    evaluation_objects=1,
    precision="float32",
    log_seconds=0,
    evaluate_seconds=1e9,
    checkpoint_seconds=1e9,
)


@pytest.fixture(scope="module")
def toys() -> SlatDataset:
    return toy_set(3)


def weights(parts: SlatVAE) -> Tensor:
    return torch.cat([p.flatten() for p in parts.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_learns(toys: SlatDataset, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    parts = SlatVAE(TINY.parts)
    rng = torch.Generator().manual_seed(0)
    batch = draw_objects(toys, TINY, rng, render=True, device=torch.device("cpu"))

    def forward(*inputs: Any) -> Any:
        """As accelerate wraps a model."""
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            return convert_to_fp32(parts(*inputs))

    losses = slat_vae_losses(forward, batch, TINY, rng)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert set(losses) == set(vars(TINY.weights))
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in parts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_it_learns_and_saves(toys: SlatDataset, tmp_path: Path) -> None:
    long = replace(TINY, out=tmp_path, steps=14, render_from=0.8)
    parts = fit_slat_vae(toys, toys, long)
    loaded = SlatVAE.from_pretrained(tmp_path / "final")
    assert torch.equal(weights(parts), weights(loaded))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines[:-1]]
    for name in ("likelihood", "zero", "opacity"):
        assert logged[-1][name] < min(0.9 * logged[0][name], logged[0][name] - 0.05), name
    assert "picture" in logged[-1]
    assert "picture" not in logged[0]
    assert '"psnr"' in lines[-1]
    assert '"f_score"' in lines[-1]
    assert (tmp_path / "codec.png").exists()


def test_a_killed_run_goes_on_as_if_never_killed(toys: SlatDataset, tmp_path: Path) -> None:
    whole = fit_slat_vae(toys, toys, replace(TINY, out=tmp_path / "whole"))
    with killed(after=2):
        fit_slat_vae(toys, toys, replace(TINY, out=tmp_path / "killed"))
    assert not (tmp_path / "killed" / "final").exists()
    resumed = fit_slat_vae(toys, toys, replace(TINY, out=tmp_path / "killed"))
    assert torch.equal(weights(resumed), weights(whole))
