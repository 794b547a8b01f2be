"""The structure autoencoder at toy size."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loci.errors import LociError
from loci.objects.models.structure_vae import (
    StructureDecoder,
    StructureDecoderConfig,
    StructureEncoder,
    StructureEncoderConfig,
)
from loci.train.structure.vae import (
    StructureVAE,
    StructureVAETraining,
    fit_structure_vae,
    reconstruction_loss,
    voxel_iou,
)
from loci.train.structure.vae_data import ShapeAugmentation, Shapes
from tests.train.killing import killed

pytest.importorskip("accelerate", reason="the extra `train` is not installed")

TINY = StructureVAETraining(
    encoder=StructureEncoderConfig(4, (16, 8), patch_size=2, middle_blocks=0),
    decoder=StructureDecoderConfig(4, (16, 8, 4), 1, 0),
    augmentation=ShapeAugmentation(primitives=0.3),
    steps=6,
    learning_rate=5e-3,
    warmup_steps=5,
    hold_fraction=0.0,
    batch_size=4,
    precision="float32",
    log_seconds=0,
    evaluate_seconds=1e9,
    checkpoint_seconds=1e9,
)


def boxes(count: int = 4) -> Shapes:
    grids = []
    for n in range(count):
        grid = torch.zeros(16, 16, 16, dtype=torch.bool)
        grid[2 : 8 + n, 3:13, n : 15 - n] = True
        grids.append(grid)
    return Shapes(grids)


def weights(codec: StructureVAE) -> torch.Tensor:
    return torch.cat([p.flatten() for p in codec.parameters()])


def test_it_learns_and_saves(tmp_path: Path) -> None:
    shapes = boxes()
    still = ShapeAugmentation(primitives=0.0, changed=0.0)
    config = replace(
        TINY, out=tmp_path, steps=60, augmentation=still, ema_decay=0.9, hold_fraction=0.5
    )
    codec = fit_structure_vae(shapes, shapes, config)
    truth = torch.stack([shapes.plain(i) for i in range(4)])
    assert voxel_iou(codec.reconstruct(truth[:, None].float()), truth).mean() > 0.5
    encoder = StructureEncoder.from_pretrained(tmp_path / "final" / "structure_encoder")
    decoder = StructureDecoder.from_pretrained(tmp_path / "final" / "structure_decoder")
    with torch.no_grad():
        latents = encoder(truth[:, None].float()).mean
        assert latents.shape == (4, 8, 4)
        torch.testing.assert_close(latents.std(dim=(0, 1)), torch.ones(4), atol=0.05, rtol=0)
        again = decoder(latents)[:, 0] > 0
    assert torch.equal(again, codec.reconstruct(truth[:, None].float()))
    assert (tmp_path / "reconstructions.png").exists()


def test_scaling_the_latents_changes_nothing_that_is_decoded() -> None:
    codec = StructureVAE(TINY).requires_grad_(False)
    shapes = boxes().batch(2, ShapeAugmentation(), torch.Generator().manual_seed(0))
    before = codec.encoder(shapes)
    logits = codec.decoder(before.mean)
    deviation = torch.tensor([0.5, 2.0, 1.0, 4.0])
    codec.scale_latents(deviation)
    after = codec.encoder(shapes)
    torch.testing.assert_close(after.mean, before.mean / deviation)
    torch.testing.assert_close(after.log_variance, before.log_variance - 2 * deviation.log())
    torch.testing.assert_close(codec.decoder(after.mean), logits, atol=1e-5, rtol=1e-4)


def test_every_weight_gets_a_gradient() -> None:
    codec = StructureVAE(TINY)
    with torch.no_grad():
        for p in codec.parameters():  # Some begin at 0 and would let nothing through
            p.add_(0.02 * torch.randn_like(p))
    shapes = boxes().batch(2, ShapeAugmentation(), torch.Generator().manual_seed(0))
    error, divergence = codec(shapes, torch.Generator().manual_seed(1))
    (error + divergence).backward()
    without = [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_killed_run_goes_on_as_if_never_killed(tmp_path: Path) -> None:
    shapes = boxes()
    whole = fit_structure_vae(shapes, shapes, replace(TINY, out=tmp_path / "whole"))
    with killed(after=3):
        fit_structure_vae(shapes, shapes, replace(TINY, out=tmp_path / "killed"))
    assert not (tmp_path / "killed" / "final").exists()
    resumed = fit_structure_vae(shapes, shapes, replace(TINY, out=tmp_path / "killed"))
    assert torch.equal(weights(resumed), weights(whole))


def test_an_encoder_is_trained_for_a_decoder_that_exists(tmp_path: Path) -> None:
    shapes = boxes()
    first = fit_structure_vae(shapes, shapes, replace(TINY, out=tmp_path / "first"))
    model = tmp_path / "first" / "final"
    shutil.rmtree(model / "structure_encoder")
    config = replace(TINY, out=tmp_path / "second", init_from=model, freeze_decoder=True, steps=20)
    second = fit_structure_vae(shapes, shapes, config)
    for one, other in zip(first.decoder.parameters(), second.decoder.parameters(), strict=True):
        assert torch.equal(one, other), "neither trained nor scaled"
    assert (tmp_path / "second" / "final" / "structure_encoder").is_dir()
    config = replace(TINY, out=tmp_path / "third", init_from=tmp_path / "second" / "final")
    third = fit_structure_vae(shapes, shapes, replace(config, learning_rate=0.0, steps=1))
    assert torch.equal(weights(third), weights(second))
    narrow = replace(config, out=tmp_path / "x", decoder=replace(TINY.decoder, middle_blocks=1))
    with pytest.raises(LociError, match=r"final: StructureDecoderConfig\(.*expected"):
        fit_structure_vae(shapes, shapes, narrow)


def test_a_perfect_reconstruction_costs_nothing() -> None:
    truth = torch.zeros(2, 1, 8, 8, 8)
    truth[0, 0, 2:5] = 1
    right, empty = 60 * truth - 30, torch.full_like(truth, -30.0)
    torch.testing.assert_close(reconstruction_loss(right, truth), torch.zeros(2))
    assert reconstruction_loss(empty, truth)[0] > 1


def test_iou_of_known_overlaps() -> None:
    one = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    other = one.clone()
    one[0, :2], other[0, 1:3] = True, True
    torch.testing.assert_close(voxel_iou(one, other), torch.tensor([1 / 3, 1.0]))
