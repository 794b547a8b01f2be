"""Losses of stage 2's autoencoder against samples of the true surface.

No renderer takes part: samples tell where colour lies, stored distances where the surface is. A
rendered view costs as much as a whole batch of these; later in training it refines them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.from_features import CHANNELS
from loci.geometry.rotations import quaternion_to_matrix
from loci.objects.models.slat_encoder import SDF_REACH, cell_corners
from loci.train.slat.vae_data import SlatVAEBatch

BLUR = 0.08
"""Deviation added to Gaussians when samples judge them, in voxels: flat surfaces would make
their likelihood infinite."""


def gaussian_losses(gaussians: Gaussians, batch: SlatVAEBatch, side: int) -> dict[str, Tensor]:
    """Every voxel's Gaussians as a mixture that its samples were drawn from.

    Args:
        gaussians: of the whole batch, voxel by voxel.
        batch: its samples.
        side: voxels along the grid's side.

    Returns:
        likelihood: mean negative logarithm, lengths in voxels, per dimension.
        color: mean absolute error, each sample's Gaussians weighted by how likely they gave it.
        opacity: of voxels with samples towards 1, of those without towards 0.
    """
    count = len(gaussians) // len(batch.voxels)
    owner = batch.owner
    centers, scales, colors, logits = (
        part.unflatten(0, (-1, count))
        for part in (
            gaussians.positions,
            gaussians.scales,
            gaussians.colors,
            gaussians.opacity_logits,
        )
    )
    axes = quaternion_to_matrix(gaussians.rotations).unflatten(0, (-1, count))
    away = (batch.samples[:, None, :3] - centers[owner]) * side
    along = (away[:, :, None] @ axes[owner])[:, :, 0]
    variance = ((scales * side).square() + BLUR**2)[owner]
    exponent = -0.5 * (along.square() / variance + variance.log()).sum(-1)
    weight = exponent.softmax(dim=1).detach()
    error = (colors[owner] - batch.samples[:, None, 6:]).abs().mean(-1)
    target = batch.filled.float()[:, None].expand_as(logits)
    return {
        "likelihood": -exponent.logsumexp(dim=1).mean() / 3,
        "color": (weight * error).sum(1).mean(),
        "opacity": F.binary_cross_entropy_with_logits(logits, target),
    }


def mesh_losses(
    feats: Float[Tensor, "n8 101"], batch: SlatVAEBatch, resolution: int
) -> dict[str, Tensor]:
    """The mesh decoder's channels on the cells of the batch's voxels.

    Args:
        feats: of `batch.voxels.finer`, distances in cells.
        batch: its distances and samples.
        resolution: cells along the grid's side.

    Returns:
        sdf: mean absolute error at the corners, distances clipped.
        zero: mean absolute distance, interpolated, at the samples.
        paint: mean absolute error of colours and normals there.
        regular: mean square of what bends the cubes: shifts and weights.
    """
    sdf, deform, weights, colors = feats.split(list(CHANNELS.values()), dim=1)
    sdf = sdf - 1 / resolution  # the bias with which a mesh is extracted
    truth = cell_corners(batch.corners)
    reach = sdf.clamp(-SDF_REACH, SDF_REACH)
    # Clipping has no gradient for what lies beyond; there only the wrong side is worth one.
    beyond = F.relu(sdf.abs() - SDF_REACH)
    share = trilinear_weights(batch.place)
    rows = batch.fine_owner
    at_samples = (share * sdf[rows]).sum(1)
    painted = (share[:, :, None] * torch.sigmoid(colors.unflatten(1, (8, 6)))[rows]).sum(1)
    paint = torch.cat([batch.samples[:, 6:], (batch.samples[:, 3:6] + 1) / 2], dim=1)
    return {
        "sdf": (reach - truth).abs().mean() + beyond.mean(),
        "zero": at_samples.abs().mean(),
        "paint": (painted - paint).abs().mean(),
        "regular": deform.square().mean() + weights.square().mean(),
    }


def trilinear_weights(place: Float[Tensor, "m 3"]) -> Float[Tensor, "m 8"]:
    """Trilinear weights of a cell's corners, x fastest, for places in [-1, 1]."""
    high = (place + 1) / 2
    corner = torch.arange(8, device=place.device)
    bits = torch.stack([corner & 1, corner >> 1 & 1, corner >> 2 & 1], dim=1).bool()
    return torch.where(bits, high[:, None], 1 - high[:, None]).prod(dim=-1)
