"""Evaluation of stage 1: samples of held-out objects, not losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loci.geometry.mesh.distance import surface_distance
from loci.geometry.rotations import degrees_apart, quaternion_to_matrix
from loci.objects.models.structure_flow import Latents
from loci.objects.models.structure_vae import StructureDecoder, StructureEncoder
from loci.objects.placement.pose import decode_pose
from loci.objects.sampling import StructureSampling, sample_structure
from loci.train.structure.coordinates import coordinate_loss
from loci.train.structure.data import (
    StructureBatch,
    StructureObject,
    structure_batch,
)
from loci.train.structure.draw import draw_voxels
from loci.train.structure.objective import StructureObjective
from loci.train.structure.scenes import CLEAN
from loci.train.structure.vae import voxel_iou
from loci.train.trainer import RunDirectory, step_generator

REACH = 0.05
"""Distance within which a voxel's centre counts as found, in units of the object's cube."""
SHOWN = 12


class StructureLatents(NamedTuple):
    """The trained structure autoencoder, in evaluation mode."""

    encoder: StructureEncoder
    decoder: StructureDecoder

    def to(self, device: torch.device) -> StructureLatents:
        """The same autoencoder on another device."""
        return StructureLatents(self.encoder.to(device), self.decoder.to(device))

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @torch.no_grad()
    def latents(self, shapes: Bool[Tensor, "b r r r"]) -> Float[Tensor, "b n c"]:
        """The mean latents of voxels."""
        parts = shapes.to(self.device).split(16)
        parts = [self.encoder(part[:, None].float()).mean for part in parts]
        return torch.cat(parts)

    @torch.no_grad()
    def shapes(self, latents: Float[Tensor, "b n c"]) -> Bool[Tensor, "b r r r"]:
        """The voxels of latents."""
        parts = latents.to(self.device).split(16)
        return torch.cat([self.decoder(part)[:, 0] > 0 for part in parts])


@dataclass(frozen=True)
class StructureEvaluation:
    """One view each of held-out objects, the same at every evaluation.

    Attributes:
        with_pointmap: the views with their pointmap.
        without: the same views without.
        truth: the objects' voxels.
        codec: what decodes latents.
        sampling: how stage 1 is sampled.
    """

    with_pointmap: StructureBatch
    without: StructureBatch
    truth: Bool[Tensor, "b r r r"]
    codec: StructureLatents
    sampling: StructureSampling

    @classmethod
    def prepare(
        cls,
        objects: Sequence[StructureObject],
        codec: StructureLatents,
        sampling: StructureSampling,
        count: int,
        size: int,
        seed: int = 0,
    ) -> StructureEvaluation:
        """With at most `count` objects, spread over the set."""
        chosen = torch.linspace(0, len(objects) - 1, min(count, len(objects))).long().tolist()
        rng = step_generator(seed, 0)
        pairs = [(i, int(torch.randint(len(objects[i].views), (), generator=rng))) for i in chosen]
        with_pointmap, without = (
            structure_batch(objects, pairs, count, size, CLEAN, step_generator(seed, 1))
            for count in (len(pairs), 0)
        )
        truth = torch.stack([objects[i].occupancy for i in chosen])
        return cls(with_pointmap, without, truth, codec, sampling)

    @torch.no_grad()
    def score(self, model: StructureObjective, run: RunDirectory | None = None) -> dict[str, float]:
        """Scores of a model in evaluation mode, and the sheet `samples` if there is a run.

        Means over objects of voxel IoU, F-score and the loss of the object coordinates, and median
        pose errors: with pointmaps (`known_`), without (`alone_`), and of the autoencoder
        (`ceiling_`). Runs on the model's device.
        """
        device = next(model.parameters()).device
        ceiling = self.codec.shapes(self.codec.latents(self.truth)).cpu()
        scores = {f"ceiling_{k}": v for k, v in shape_scores(ceiling, self.truth).items()}
        rows = [self.truth]
        for name, batch in (("known", self.with_pointmap), ("alone", self.without)):
            batch = batch.to(device)
            condition = model.condition(batch)
            rng = step_generator(0, 2)
            noise = {
                key: torch.randn(len(condition), *shape, generator=rng).to(device)
                for key, shape in model.flow.latent_shapes().items()
            }
            latents = sample_structure(model.flow, condition, noise, self.sampling)
            shapes = self.codec.shapes(latents["shape"]).cpu()
            latents = {key: x.cpu() for key, x in latents.items()}
            found = shape_scores(shapes, self.truth) | pose_scores(latents, batch)
            coordinates = coordinate_loss(model.coordinate_head(condition), batch.coordinates)
            found["coordinates"] = coordinates.item()
            scores |= {f"{name}_{k}": v for k, v in found.items()}
            rows.append(shapes)
        if run is not None:
            run.sheet("samples", self._sheet(rows))
        return scores

    def _sheet(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Pictures above true voxels above those found with and without the pointmap."""
        crops = self.with_pointmap.pictures["image"]
        outside = 1 - 0.6 * (1 - self.with_pointmap.pictures["mask"])
        pictures = 2 * (crops * outside)[:SHOWN] - 1
        return [pictures] + [draw_voxels(row[:SHOWN], crops.shape[-1]) for row in rows]


def shape_scores(
    output: Bool[Tensor, "b r r r"], truth: Bool[Tensor, "b r r r"]
) -> dict[str, float]:
    """Mean voxel IoU and F-score."""
    scores = [fscore(one, other) for one, other in zip(output, truth, strict=True)]
    iou = voxel_iou(output, truth).mean().item()
    return {"voxel_iou": iou, "fscore": sum(scores) / len(scores)}


def fscore(output: Bool[Tensor, "r r r"], truth: Bool[Tensor, "r r r"]) -> float:
    """Harmonic mean of the shares of either's voxel centres that are near one of the other's."""
    one, other = ((torch.argwhere(shape) + 0.5) / len(shape) for shape in (output, truth))
    return surface_distance(one, other, REACH).f_score


def pose_scores(latents: Latents, batch: StructureBatch) -> dict[str, float]:
    """Median errors: of rotation in degrees, of size as a factor, of place in object sizes."""
    truth = batch.placement
    pose = decode_pose(latents, *batch.normalizer)
    rotation = degrees_apart(quaternion_to_matrix(pose.rotation), truth.rotation)
    factor = (pose.scale[:, 0] / truth.scale).log().abs().exp()
    distance = (pose.translation - truth.translation).norm(dim=1) / truth.scale
    return {
        "rotation": rotation.median().item(),
        "size_factor": factor.median().item(),
        "place": distance.median().item(),
    }
