"""What a lifter's scores lie between: a retrieval baseline, and an upper bound by both VAEs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from loci.bench.objects.cases import Case
from loci.bench.objects.metrics import Prediction, surface_points
from loci.data.objects.dataset import ObjectSet, RenderedView
from loci.errors import LociError
from loci.geometry.gaussians.gaussians import SH_BAND_0, Gaussians
from loci.objects.inputs.pointmap import (
    ASSUMED_DISTANCE,
    ASSUMED_FOV,
    canonical_normalizer,
    normalizer,
)
from loci.objects.inputs.preprocess import slat_inputs
from loci.objects.models.structure_vae import StructureDecoder, StructureEncoder
from loci.objects.placement.pose import MatrixPose, rotation_between
from loci.train.slat.parts import SlatVAE
from loci.train.slat.targets import encode_objects
from loci.train.slat.vae_evaluate import evenly_spaced
from loci.train.structure.evaluate import StructureLatents
from loci.train.structure.vae_data import max_pool_voxels


@dataclass(frozen=True)
class VAEReconstruction:
    """The upper bound: the true object through both VAEs, as if the flows made no error.

    Args:
        structure: the VAE of voxels.
        slat: the VAE of the surface in them.
    """

    structure: StructureLatents
    slat: SlatVAE

    @classmethod
    def load(cls, structure_vae: Path, slat_vae: Path) -> VAEReconstruction:
        """From the folders of the finished training runs.

        Raises:
            LociError: when a part is missing, damaged or does not fit.
        """
        final = structure_vae / "final"
        structure = StructureLatents(
            StructureEncoder.from_pretrained(final / "structure_encoder").float(),
            StructureDecoder.from_pretrained(final / "structure_decoder").float(),
        )
        return cls(structure, SlatVAE.from_pretrained(slat_vae / "final"))

    @torch.no_grad()
    def reconstruct(self, case: Case) -> Prediction | None:
        """The object in its true pose; None when no voxel is left of it.

        The second VAE encodes the true surface in the voxels that the first one reconstructs.
        """
        truth = max_pool_voxels(case.occupancy, len(case.occupancy) // case.item.resolution)
        coords = torch.argwhere(self.structure.shapes(self.structure.latents(truth[None]))[0])
        if not len(coords):
            return None
        item = case.item._replace(coords=coords)
        voxels, latents, _ = encode_objects([item], self.slat.encoder)
        gaussians = self.slat.gaussians.decode(latents, voxels)[0]
        mesh = self.slat.mesh.decode(latents, voxels)[0]
        points = surface_points(mesh)
        return Prediction(points, coords, case.item.resolution, gaussians, case.pose)


def missing_vaes(structure_vae: Path, slat_vae: Path) -> str | None:
    """Why there is no upper bound, if there is none."""
    folders = [
        structure_vae / "final" / "structure_encoder",
        slat_vae / "final" / "latent_encoder",
    ]
    for folder in folders:
        if not folder.is_dir():
            return f"{folder}: missing; the encoders are in the training runs, not in the model"
    return None


FeaturesOf = Callable[[UInt8[np.ndarray, "n s s 3"]], Float[np.ndarray, "n d"]]
SIDE = 128
RESOLUTION = 32
_BATCH = 64
GAUSSIAN_SCALE, GAUSSIAN_LOGIT = 0.008, 4.0
"""Scale and opacity logit of the Gaussian that stands for a surface sample."""


class Retrieval:
    """The baseline: the training object whose picture has the most similar features.

    Args:
        objects: to choose from.
        views: how many views of each object can be retrieved.
        features: of pictures, compared by cosine similarity.
        progress: passes the pairs of object and view on, and may show a progress bar.
    """

    def __init__(
        self,
        objects: ObjectSet,
        views: int,
        features: FeaturesOf,
        progress: Callable[[list[tuple[int, int]]], Iterator[tuple[int, int]]] = iter,
    ) -> None:
        self.objects, self.features = objects, features
        pairs = [(i, v) for i in range(len(objects)) for v in evenly_spaced(objects.views, views)]
        self.pairs: list[tuple[int, int]] = []
        rows: list[np.ndarray] = []
        crops: list[np.ndarray] = []
        for index, number in progress(pairs):
            view = objects.view(index, number)
            try:
                crops.append(crop(view.image.numpy(), view.mask.numpy()))
            except LociError:  # fewer than three pixels
                continue
            self.pairs.append((index, number))
            if len(crops) == _BATCH:
                rows.append(_normalized(features(np.stack(crops))))
                crops.clear()
        if crops:
            rows.append(_normalized(features(np.stack(crops))))
        self.known = np.concatenate(rows)

    def nearest(self, case: Case) -> tuple[int, int]:
        """Index and view of the most similar object; backgrounds do not count."""
        feature = _normalized(self.features(crop(case.pixels, case.mask)[None]))[0]
        return self.pairs[int(np.argmax(self.known @ feature))]

    def retrieve(self, case: Case) -> Retrieved:
        """The nearest object, posed so that it is as large in the picture as the mask."""
        index, number = self.nearest(case)
        gaussians = surface_gaussians(self.objects.surface(index))
        voxels = torch.argwhere(self.objects.occupancy(index, RESOLUTION))
        view, points = self.objects.view(index, number), surface_points(gaussians)
        with_pointmap, without_pointmap = (
            Prediction(points, voxels, RESOLUTION, gaussians, retrieved_pose(view, case, pointmap))
            for pointmap in (True, False)
        )
        return Retrieved(self.objects.records[index].name, with_pointmap, without_pointmap)


class Retrieved(NamedTuple):
    """The name of the retrieved object, and its pose by the pointmap and by the picture alone."""

    name: str
    with_pointmap: Prediction
    without_pointmap: Prediction


def retrieved_pose(view: RenderedView, case: Case, with_pointmap: bool) -> MatrixPose:
    """The pose of the retrieved view, transferred to the case's picture.

    The centre of the visible surface (without a pointmap: of the outline) moves to that of the
    case; the object turns with the ray to it and is scaled by its outline.
    """
    mask = torch.from_numpy(case.mask)[None].float()
    if with_pointmap:
        fov, target = case.fov, normalizer(case.pointmap.movedim(-1, 0), mask).shift
        source = view.pointmap()[view.mask].nanmedian(dim=0).values
    else:
        fov, target = ASSUMED_FOV, canonical_normalizer(mask).shift
        depth = float(view.translation[2])
        source = canonical_normalizer(view.mask[None].float(), view.fov, depth).shift
    ratio = _extent(mask[0] > 0.5, fov) * target[2] / (_extent(view.mask, view.fov) * source[2])
    rotation = rotation_between(source[None], target[None])[0]
    translation = target + ratio * (view.translation - source) @ rotation
    scale = ratio * view.scale
    if not with_pointmap:  # canonical poses have the object's centre at a fixed distance
        unit = ASSUMED_DISTANCE / translation[2]
        translation, scale = translation * unit, scale * unit
    return MatrixPose((view.rotation @ rotation)[None], translation[None], scale[None])


def crop(
    pixels: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "s s 3"]:
    """The object alone on white, as large as in the model's own crops.

    Raises:
        LociError: for an object less than three pixels across.
    """
    inside = torch.from_numpy(mask)[None].float()
    # Crops are padded with zeros, so inverted colours give white.
    inverted = (1 - torch.from_numpy(pixels.copy()).movedim(-1, 0).float() / 255) * inside
    cropped = 1 - slat_inputs(inverted, inside, SIDE)["image"][0]
    return (cropped * 255).round().to(torch.uint8).movedim(0, -1).numpy()


def surface_gaussians(surface: Float[Tensor, "n 9"]) -> Gaussians:
    """Surface samples (position, normal, colour) as small opaque Gaussians."""
    positions, colors = surface[:, :3], surface[:, 6:]
    return Gaussians(
        positions,
        (colors - 0.5) / SH_BAND_0,
        torch.full_like(positions, GAUSSIAN_SCALE),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(positions), 4),
        torch.full((len(positions),), GAUSSIAN_LOGIT),
    )


def _extent(mask: Bool[Tensor, "h w"], fov: float) -> float:
    """The longer side of the mask's bounding box, at depth 1."""
    spans = (torch.nonzero(mask).amax(dim=0) - torch.nonzero(mask).amin(dim=0) + 1).amax()
    return float(spans) * 2 * math.tan(math.radians(fov) / 2) / mask.shape[1]


def _normalized(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)
