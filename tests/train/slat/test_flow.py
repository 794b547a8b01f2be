"""Training of the stage-2 flow at toy size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loci.io.config_files import load_config
from loci.objects.inputs.pixel_aligned import ALIGNED_CHANNELS
from loci.objects.models.condition import EmbedderFuser, FuserConfig
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedderConfig
from loci.objects.models.slat_flow import SlatFlow, SlatFlowConfig, SlatStatistics
from loci.objects.placement.pose import MatrixPose
from loci.objects.sampling import sample_slat
from loci.train.slat.flow import (
    STATISTICS_NAME,
    ConditionedFlow,
    SlatFlowTraining,
    fit_slat_flow,
    flow_losses,
)
from loci.train.slat.parts import SlatVAE
from loci.train.slat.targets import (
    PoseJitter,
    SlatFlowBatch,
    crop_voxels,
    encode_objects,
    flow_batch,
    latent_statistics,
    perturb_pose,
)
from loci.train.slat.vae_data import SlatDataset
from loci.train.structure.scenes import ObjectView, SceneAugmentation
from tests.train.killing import killed
from tests.train.slat.test_vae import TINY as CODEC
from tests.train.toy_objects import toy_set

EYE = DinoEmbedderConfig(DinoConfig(14, 16, 1, 2, registers=1, grid=2), 28, "prenorm")
TINY = SlatFlowTraining(
    flow=SlatFlowConfig(
        dim=16,
        condition_dim=16,
        blocks=1,
        heads=2,
        io_channels=(8,),
        frequencies=16,
        aligned=ALIGNED_CHANNELS,
    ),
    fuser=FuserConfig(EYE, dim=16, full_frame=()),
    steps=4,
    batch_size=2,
    crop_batch_size=3,
    crop_size=20,
    crop_until=0.5,
    evaluation_objects=1,
    precision="float32",
    log_seconds=0,
    evaluate_seconds=1e9,
    checkpoint_seconds=1e9,
)
UNUSED = ("mask_token", "backbone.norm")
"""Weights of the published embedder that stage 2 does not read."""


@pytest.fixture(scope="module")
def toys() -> SlatDataset:
    return toy_set(3)


@pytest.fixture(scope="module")
def parts() -> SlatVAE:
    torch.manual_seed(0)
    return SlatVAE(CODEC.parts).eval().requires_grad_(False)


def weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.flatten() for p in model.parameters()])


def test_statistics_make_latents_standard(toys: SlatDataset, parts: SlatVAE) -> None:
    statistics = latent_statistics(toys, parts.encoder)
    latents = torch.cat([encode_objects([item], parts.encoder).latents for item in toys.items])
    normal = statistics.normalize(latents)
    torch.testing.assert_close(normal.mean(0), torch.zeros(8), atol=1e-3, rtol=0)
    assert normal.std(0).max() < 1.001


def test_a_batch_has_a_picture_for_each_object(toys: SlatDataset, parts: SlatVAE) -> None:
    def batch(augmentation: SceneAugmentation):
        return flow_batch(
            toys, parts.encoder, 3, 28, augmentation, 0.1, torch.Generator().manual_seed(0)
        )

    made = batch(SceneAugmentation())
    assert len(made.objects.voxels.items) == 3
    assert len(made.objects.latents) == len(made.objects.voxels)
    assert made.objects.aligned is not None
    assert list(made.objects.aligned.shape) == [len(made.objects.voxels), ALIGNED_CHANNELS]
    assert {name: list(x.shape) for name, x in made.inputs.items()} == {
        "image": [3, 3, 28, 28],
        "mask": [3, 1, 28, 28],
        "rgb_image": [3, 3, 28, 28],
        "rgb_image_mask": [3, 1, 28, 28],
    }


def test_mirrored_pictures_have_mirrored_voxels(toys: SlatDataset, parts: SlatVAE) -> None:
    found = []
    for chance in (0.0, 1.0):
        augmentation = SceneAugmentation(chance, 0, 0, 0, 0, 0, 0)
        rng = torch.Generator().manual_seed(1)
        # At the size of the renders, so that nothing is resized.
        found.append(flow_batch(toys, parts.encoder, 1, 32, augmentation, 0.0, rng))
    plain, mirrored = (set(map(tuple, b.objects.voxels.coords.tolist())) for b in found)
    assert {(i, 7 - x, y, z) for i, x, y, z in plain} == mirrored
    # Each voxel is at the same pixels as the one it is the mirror image of.
    colors = []
    for sign, made in zip((1, -1), found, strict=True):
        assert made.objects.aligned is not None
        order = [(sign * (2 * x - 7), y, z) for _, x, y, z in made.objects.voxels.coords.tolist()]
        rows = sorted(range(len(order)), key=order.__getitem__)
        colors.append(made.objects.aligned[rows].view(-1, 8, 5)[..., :4].mean(dim=1))
    apart = (colors[0] - colors[1]).square().mean()
    assert apart < 0.1 * (colors[0] - colors[1].flip(0)).square().mean()
    masks = [b.inputs["rgb_image_mask"] for b in found]
    assert torch.equal(masks[0].flip(-1), masks[1])
    (left, seen), (right, also) = (b.coordinates[0].split([3, 1]) for b in found)
    both = (seen.flip(-1) > 0.9) & (also > 0.9)  # The crop may begin a pixel further
    assert both.sum() > 3
    apart = left.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None] - right
    assert (apart.norm(dim=0) * both[0]).sum() / both.sum() < 0.15


def test_a_part_of_an_object_is_the_voxels_around_one(toys: SlatDataset, parts: SlatVAE) -> None:
    whole = encode_objects(toys.items, parts.encoder)
    whole = whole._replace(aligned=whole.latents + 1)
    part = crop_voxels(whole, 20, torch.Generator().manual_seed(0))
    assert part.aligned is not None
    assert torch.equal(part.aligned, part.latents + 1)
    assert [rows.stop - rows.start for rows in part.voxels.items] == [20] * 3
    latents = {
        tuple(c): x for c, x in zip(whole.voxels.coords.tolist(), whole.latents, strict=True)
    }
    for coords, latent in zip(part.voxels.coords.tolist(), part.latents, strict=True):
        assert torch.equal(latents[tuple(coords)], latent)
    spread = part.voxels.coords[part.voxels.items[0], 1:].float().std(dim=0).mean()
    assert spread < 0.8 * whole.voxels.coords[whole.voxels.items[0], 1:].float().std(dim=0).mean()
    everything = crop_voxels(whole, 10_000, torch.Generator())
    assert torch.equal(everything.voxels.coords, whole.voxels.coords)


def test_a_jolt_moves_the_pose_by_as_much_as_it_says() -> None:
    placement = MatrixPose(torch.eye(3), torch.tensor([0.1, 0.2, 3.0]), torch.tensor(2.0))
    blank = torch.zeros(3, 4, 4)
    view = ObjectView(blank, blank[:1], blank[0], 40.0, placement, 0.0)
    rng = torch.Generator().manual_seed(0)
    assert perturb_pose(view, PoseJitter(0, 0, 0), rng).placement.rotation.equal(torch.eye(3))
    moved = [perturb_pose(view, PoseJitter(3.0, 0.01, 0.05), rng).placement for _ in range(400)]
    rotations = torch.stack([p.rotation for p in moved])
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3), atol=1e-5)
    cosine = (rotations.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    # Three angles of 3 degrees each
    assert float(cosine.acos().rad2deg().square().mean().sqrt()) == pytest.approx(5.2, abs=0.5)
    shifts = torch.stack([p.translation for p in moved]) - placement.translation
    assert float(shifts.std()) == pytest.approx(0.02, rel=0.15)
    sizes = torch.stack([p.scale for p in moved]).log()
    assert float(sizes.std()) == pytest.approx(0.05, rel=0.15)


def test_every_weight_learns(toys: SlatDataset, parts: SlatVAE) -> None:
    torch.manual_seed(0)
    model, rng = ConditionedFlow(TINY.fuser, TINY.flow), torch.Generator().manual_seed(0)
    # The last layer begins at zero, which lets no gradient through.
    torch.nn.init.normal_(model.flow.out_layer.weight, std=0.1)
    batch = flow_batch(toys, parts.encoder, 2, 28, TINY.augmentation, 0.1, rng)
    flow_losses(model, batch, batch.objects.latents, TINY, rng)["loss"].backward()
    for name, parameter in model.named_parameters():
        if not any(part in name for part in UNUSED):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_pixels_are_withheld_as_often_as_it_says(toys: SlatDataset, parts: SlatVAE) -> None:
    """From a share of the objects alone, and with the picture where that is withheld."""
    torch.manual_seed(0)
    model = ConditionedFlow(TINY.fuser, TINY.flow)
    torch.nn.init.normal_(model.flow.out_layer.weight, std=0.1)
    batch = flow_batch(toys, parts.encoder, 2, 28, TINY.augmentation, 0.1, torch.Generator())
    without = batch._replace(objects=batch.objects._replace(aligned=None))

    def loss(given: SlatFlowBatch, **shares: float) -> float:
        config = replace(TINY, **{"condition_dropout": 0.0, "pixel_dropout": 0.0, **shares})
        rng = torch.Generator().manual_seed(1)
        losses = flow_losses(model, given, given.objects.latents, config, rng)
        return float(losses["velocity"].detach())

    assert loss(batch) != loss(without)
    assert loss(batch, pixel_dropout=1.0) == loss(without)
    assert loss(batch, condition_dropout=1.0) == loss(without, condition_dropout=1.0)


def test_it_learns_and_saves(toys: SlatDataset, parts: SlatVAE, tmp_path: Path) -> None:
    long = replace(TINY, out=tmp_path, steps=16, learning_rate=1e-2, warmup_steps=1)
    model = fit_slat_flow(toys, toys, parts, long)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["velocity"] for line in lines if "velocity" in line]
    assert sum(losses[-4:]) < sum(losses[:4]) - 0.1
    assert {"error", "error_constant", "psnr", "psnr_ceiling"} <= set(lines[-1])
    assert (tmp_path / "latents.png").exists()
    final = tmp_path / "final"
    flow = SlatFlow.from_pretrained(final / "slat_flow")
    assert torch.equal(weights(flow), weights(model.flow))
    fuser = EmbedderFuser.from_pretrained(final / "slat_fuser")
    assert torch.equal(weights(fuser), weights(model.fuser))
    statistics = load_config(final / STATISTICS_NAME, SlatStatistics)
    assert statistics == latent_statistics(toys, parts.encoder)
    made = flow_batch(toys, parts.encoder, 1, 28, TINY.augmentation, 0.0, torch.Generator())
    noise = torch.zeros_like(made.objects.latents)
    sampled = sample_slat(flow, fuser(made.inputs), made.objects.voxels, noise)
    assert sampled.isfinite().all()


def test_a_killed_run_goes_on_as_if_never_killed(
    toys: SlatDataset, parts: SlatVAE, tmp_path: Path
) -> None:
    whole = fit_slat_flow(toys, toys, parts, replace(TINY, out=tmp_path / "whole"))
    with killed(after=2):
        fit_slat_flow(toys, toys, parts, replace(TINY, out=tmp_path / "killed"))
    resumed = fit_slat_flow(toys, toys, parts, replace(TINY, out=tmp_path / "killed"))
    assert torch.equal(weights(resumed), weights(whole))
