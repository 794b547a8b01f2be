"""How well stage 1 does on objects it never saw: samples, not losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loci.geometry.mesh.distance import surface_distance
from loci.objects.models.structure_flow import Latents
from loci.objects.models.structure_vae import StructureDecoder, StructureEncoder
from loci.objects.placement.pose import decode_pose, quaternion_matrix
from loci.objects.sampling import StructureSampling, sample_structure
from loci.train.structure.data import StructureBatch, ViewedObject, coordinate_loss, structure_batch
from loci.train.structure.objective import StructureObjective
from loci.train.structure.scenes import CLEAN
from loci.train.structure.vae import voxel_iou
from loci.train.structure.vae_data import voxel_pictures
from loci.train.trainer import RunDirectory, step_generator

REACH = 0.05
"""Distance within which a voxel's centre counts as found, in units of the object's cube."""
SHOWN = 12


class StructureLatents(NamedTuple):
    """The trained autoencoder, in evaluation mode."""

    encoder: StructureEncoder
    decoder: StructureDecoder

    @torch.no_grad()
    def latents(self, shapes: Bool[Tensor, "b r r r"]) -> Float[Tensor, "b n c"]:
        """The mean latents of voxels."""
        parts = [self.encoder(part[:, None].float()).mean for part in shapes.split(16)]
        return torch.cat(parts)

    @torch.no_grad()
    def shapes(self, latents: Float[Tensor, "b n c"]) -> Bool[Tensor, "b r r r"]:
        """The voxels of latents."""
        return torch.cat([self.decoder(part)[:, 0] > 0 for part in latents.split(16)])


@dataclass(frozen=True)
class StructureEvaluation:
    """One view each of held-out objects, the same at every examination.

    Attributes:
        known: the views with their pointmap.
        alone: the same views without.
        truth: the objects' voxels.
        codec: what latents are decoded with.
        sampling: how stage 1 is run.
    """

    known: StructureBatch
    alone: StructureBatch
    truth: Bool[Tensor, "b r r r"]
    codec: StructureLatents
    sampling: StructureSampling

    @classmethod
    def prepare(
        cls,
        objects: Sequence[ViewedObject],
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
        known, alone = (
            structure_batch(objects, pairs, with_pointmap, size, CLEAN, step_generator(seed, 1))
            for with_pointmap in (len(pairs), 0)
        )
        truth = torch.stack([objects[i].occupancy for i in chosen])
        return cls(known, alone, truth, codec, sampling)

    @torch.no_grad()
    def mark(self, model: StructureObjective, run: RunDirectory | None = None) -> dict[str, float]:
        """Figures of a model in evaluation mode, and the sheet `samples` if there is a run.

        Means over objects of voxel IoU, F-score and the loss of the places read off the picture,
        and the median rotation error in degrees:
        with pointmaps (`known_`), without (`alone_`), and of the autoencoder (`ceiling_`).
        """
        ceiling = self.codec.shapes(self.codec.latents(self.truth))
        figures = {f"ceiling_{k}": v for k, v in shape_figures(ceiling, self.truth).items()}
        shown = [self.truth]
        for name, batch in (("known", self.known), ("alone", self.alone)):
            condition = model.condition(batch)
            noise = model.flow.noise(len(condition), step_generator(0, 2))
            latents = sample_structure(model.flow, condition, noise, self.sampling)
            shapes = self.codec.shapes(latents["shape"])
            marks = shape_figures(shapes, self.truth) | pose_figures(latents, batch)
            away = coordinate_loss(model.reader(condition), batch.coordinates)
            marks["coordinates"] = away.item()
            figures |= {f"{name}_{k}": v for k, v in marks.items()}
            shown.append(shapes)
        if run is not None:
            run.sheet("samples", self._rows(shown))
        return figures

    def _rows(self, shown: Sequence[Tensor]) -> list[Tensor]:
        """Pictures above true voxels above those found with and without the pointmap."""
        crops = self.known.pictures["image"]
        outside = 1 - 0.6 * (1 - self.known.pictures["mask"])
        pictures = 2 * (crops * outside)[:SHOWN] - 1
        return [pictures] + [voxel_pictures(s[:SHOWN], crops.shape[-1]) for s in shown]


def shape_figures(
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


def pose_figures(latents: Latents, batch: StructureBatch) -> dict[str, float]:
    """Median errors: of rotation in degrees, of size as a factor, of place in object sizes."""
    truth = batch.placement
    pose = decode_pose(latents, *batch.normaliser)
    turned = degrees_apart(quaternion_matrix(pose.rotation), truth.rotation)
    larger = (pose.scale[:, 0] / truth.scale).log().abs().exp()
    away = (pose.translation - truth.translation).norm(dim=1) / truth.scale
    return {
        "rotation": turned.median().item(),
        "size_factor": larger.median().item(),
        "place": away.median().item(),
    }


def degrees_apart(
    first: Float[Tensor, "b 3 3"], second: Float[Tensor, "b 3 3"]
) -> Float[Tensor, "b"]:
    """The angle of the turn that leads from one rotation to the other."""
    both = first.mT @ second
    cosine = (both.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
