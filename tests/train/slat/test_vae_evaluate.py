"""The losses of the stage-2 autoencoder are least where they should be."""

from dataclasses import replace

import torch
from torch import Tensor

from loci.geometry.gaussians.gaussians import SH_BAND_0, Gaussians
from loci.geometry.mesh.from_features import CHANNELS
from loci.objects.models.slat_encoder import cell_corners
from loci.train.slat.vae_data import SlatVAEBatch, slat_vae_batch
from loci.train.slat.vae_losses import gaussian_losses, mesh_losses, trilinear_weights
from tests.train.toy_objects import toy_object

SIDE = 8


def batch() -> SlatVAEBatch:
    toys = [toy_object(seed, SIDE, 1024) for seed in range(2)]
    return slat_vae_batch(toys, 1000, torch.Generator().manual_seed(0))


def fitted(truth: SlatVAEBatch) -> Gaussians:
    """One ball for each voxel, at the mean of its samples."""
    count = len(truth.voxels)
    total = torch.zeros(count, 10).index_add(
        0, truth.owner, torch.cat([truth.samples, torch.ones(len(truth.owner), 1)], dim=1)
    )
    mean = total[:, :9] / total[:, 9:].clamp(min=1)
    return Gaussians(
        mean[:, :3],
        (mean[:, 6:] - 0.5) / SH_BAND_0,
        torch.full((count, 3), 0.3 / SIDE),
        torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        torch.full((count,), 3.0),
    )


def test_gaussians_that_fit_cost_less() -> None:
    truth = batch()
    good = fitted(truth)
    best = gaussian_losses(good, truth, SIDE)
    moved = replace(good, positions=good.positions + 0.5 / SIDE)
    gray = replace(good, harmonics=torch.zeros_like(good.harmonics))
    faint = replace(good, opacity_logits=-good.opacity_logits)
    huge = replace(good, scales=4 * good.scales)
    assert gaussian_losses(moved, truth, SIDE)["likelihood"] > best["likelihood"] + 0.3
    assert gaussian_losses(huge, truth, SIDE)["likelihood"] > best["likelihood"] + 0.3
    assert gaussian_losses(gray, truth, SIDE)["color"] > best["color"] + 0.05
    assert gaussian_losses(faint, truth, SIDE)["opacity"] > best["opacity"] + 1


def test_a_turned_disc_fits_worse() -> None:
    truth = batch()
    flat = truth._replace(samples=truth.samples[:1], owner=truth.owner[:1])
    place = flat.samples[0, :3]

    def cost(thin_axis: int) -> Tensor:
        scales = torch.full((1, 3), 0.5 / SIDE)
        scales[0, thin_axis] = 0.01 / SIDE
        center = (place + torch.tensor([0.3 / SIDE, 0, 0]))[None]
        quarter = torch.tensor([[0.5**0.5, 0, 0, 0.5**0.5]])  # about z: its x axis is our y
        disc = Gaussians(center, torch.zeros(1, 3), scales, quarter, torch.zeros(1))
        one = flat._replace(owner=torch.zeros(1, dtype=torch.long), filled=torch.ones(1).bool())
        voxels = one.voxels
        voxels = type(voxels)(voxels.coords[:1])
        return gaussian_losses(disc, one._replace(voxels=voxels), SIDE)["likelihood"]

    assert cost(thin_axis=0) < cost(thin_axis=1) - 1


def test_true_distances_cost_nothing() -> None:
    truth, side = batch(), 2 * SIDE
    feats = torch.zeros(8 * len(truth.voxels), sum(CHANNELS.values()))
    feats[:, :8] = cell_corners(truth.corners) + 1 / side
    losses = mesh_losses(feats, truth, side)
    assert losses["sdf"] < 1e-6
    assert losses["zero"] < 0.2
    assert losses["regular"] == 0
    feats[:, :8] *= -1
    assert mesh_losses(feats, truth, side)["sdf"] > 0.5


def test_shares_are_trilinear() -> None:
    place = torch.tensor([[-1.0, -1, -1], [1, -1, -1], [0, 0, 0], [0, -1, 1]])
    shares = trilinear_weights(place)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    assert shares[0, 0] == 1
    assert shares[1, 1] == 1  # x fastest
    assert shares[3].nonzero()[:, 0].tolist() == [4, 5]
