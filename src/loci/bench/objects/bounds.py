"""The ceiling: the true object through both autoencoders, as if the flows made no error."""

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
from loci.bench.objects.metrics import Guess, surface_points
from loci.data.objects.dataset import ObjectSet, RenderedView
from loci.errors import LociError
from loci.geometry.gaussians.gaussians import SH_BAND_0, Gaussians
from loci.objects.inputs.pointmap import (
    NOMINAL_DISTANCE,
    NOMINAL_FOV,
    Placement,
    nominal_scene,
    normaliser,
    turn_onto,
)
from loci.objects.inputs.preprocess import latent_inputs
from loci.objects.models.structure_vae import StructureDecoder, StructureEncoder
from loci.train.slat.parts import SlatVAE
from loci.train.slat.targets import encoded
from loci.train.slat.vae_evaluate import spread
from loci.train.structure.evaluate import StructureLatents
from loci.train.structure.vae_data import coarser


@dataclass(frozen=True)
class Ceiling:
    """The autoencoders of voxels and of what they hold, in evaluation mode."""

    voxels: StructureLatents
    contents: SlatVAE

    @classmethod
    def load(cls, structure_codec: Path, latent_codec: Path) -> Ceiling:
        """From the folders of the finished runs that trained them.

        Raises:
            LociError: when a part is missing, damaged or does not fit.
        """
        final = structure_codec / "final"
        halves = StructureLatents(
            StructureEncoder.from_pretrained(final / "structure_encoder").float(),
            StructureDecoder.from_pretrained(final / "structure_decoder").float(),
        )
        return cls(halves, SlatVAE.from_pretrained(latent_codec / "final"))

    @torch.no_grad()
    def guess(self, case: Case) -> Guess | None:
        """The object at its true place; None when no voxel is left of it.

        Voxels go through the first autoencoder, and what the true surface has in those that come
        out goes through the second.
        """
        truth = coarser(case.occupancy, len(case.occupancy) // case.item.resolution)
        coords = torch.argwhere(self.voxels.shapes(self.voxels.latents(truth[None]))[0])
        if not len(coords):
            return None
        voxels, latents, _ = encoded([case.item._replace(coords=coords)], self.contents.encoder)
        gaussians = self.contents.gaussians.decode(latents, voxels)[0]
        mesh = self.contents.mesh.decode(latents, voxels)[0]
        points = surface_points(mesh)
        return Guess(points, coords, case.item.resolution, gaussians, case.placement)


def missing(structure_codec: Path, latent_codec: Path) -> str | None:
    """Why there is no ceiling, if there is none."""
    folders = [
        structure_codec / "final" / "structure_encoder",
        latent_codec / "final" / "latent_encoder",
    ]
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if not absent:
        return None
    return f"{absent[0]}: not there; encoders are kept by the training runs, not by the model"


FeaturesOf = Callable[[UInt8[np.ndarray, "n s s 3"]], Float[np.ndarray, "n d"]]
SIDE = 128
RESOLUTION = 32
AT_ONCE = 64
SPLAT, OPAQUE = 0.008, 4.0
"""Deviation and opacity logit of the Gaussian that a surface sample is drawn as."""


class Retrieval:
    """All training objects by the features of their pictures; the nearest is the guess.

    Args:
        objects: to choose from.
        views: how many of each object's views there are to be found.
        features: of pictures; those with the smallest angle between them are the nearest.
        watch: passes pairs on, and may show how far they are.
    """

    def __init__(
        self,
        objects: ObjectSet,
        views: int,
        features: FeaturesOf,
        watch: Callable[[list[tuple[int, int]]], Iterator[tuple[int, int]]] = iter,
    ) -> None:
        self.objects, self.features = objects, features
        pairs = [(i, v) for i in range(len(objects)) for v in spread(objects.views, views)]
        self.pairs: list[tuple[int, int]] = []
        self._rows: list[np.ndarray] = []
        crops: list[np.ndarray] = []
        for number, view in watch(pairs):
            seen = objects.view(number, view)
            try:
                crops.append(crop(seen.image.numpy(), seen.mask.numpy()))
            except LociError:  # a thing of two pixels cannot be looked for
                continue
            self.pairs.append((number, view))
            if len(crops) == AT_ONCE:
                self._add(crops)
        self._add(crops)
        self.known = np.concatenate(self._rows)

    def _add(self, crops: list[np.ndarray]) -> None:
        if crops:
            self._rows.append(_unit(self.features(np.stack(crops))))
            crops.clear()

    def nearest(self, case: Case) -> tuple[int, int]:
        """Number and view of what looks most like the case's object; backgrounds do not count."""
        feature = _unit(self.features(crop(case.pixels, case.mask)[None]))[0]
        return self.pairs[int(np.argmax(self.known @ feature))]

    def guess(self, case: Case) -> Retrieved:
        """The object found, placed so that it is as large in the picture as the mask."""
        number, view = self.nearest(case)
        thing = splats(self.objects.surface(number))
        voxels = torch.argwhere(self.objects.occupancy(number, RESOLUTION))
        seen, points = self.objects.view(number, view), surface_points(thing)
        known, alone = (
            Guess(points, voxels, RESOLUTION, thing, placed(seen, case, with_pointmap))
            for with_pointmap in (True, False)
        )
        return Retrieved(self.objects.records[number].name, known, alone)


class Retrieved(NamedTuple):
    """The name of what was found, and where it is by the pointmap and by the picture alone."""

    name: str
    known: Guess
    alone: Guess


def placed(seen: RenderedView, case: Case, with_pointmap: bool) -> Placement:
    """The retrieved view's pose carried over to the case's picture.

    The middle of what is visible, or without a pointmap that of the outline, goes to where it is
    in the case; the object is turned with the ray to it and sized by its outline.
    """
    mask = torch.from_numpy(case.mask)[None].float()
    if with_pointmap:
        fov, middle = case.fov, normaliser(case.pointmap.movedim(-1, 0), mask).shift
        found = seen.pointmap()[seen.mask].nanmedian(dim=0).values
    else:
        fov, middle = NOMINAL_FOV, nominal_scene(mask).shift
        depth = float(seen.translation[2])
        found = nominal_scene(seen.mask[None].float(), seen.fov, depth).shift
    larger = _extent(mask[0] > 0.5, fov) * middle[2] / (_extent(seen.mask, seen.fov) * found[2])
    turn = turn_onto(found[None], middle[None])[0]
    translation = middle + larger * (seen.translation - found) @ turn
    scale = larger * seen.scale
    if not with_pointmap:  # there the object's middle is at a distance that is agreed on
        unit = NOMINAL_DISTANCE / translation[2]
        translation, scale = translation * unit, scale * unit
    return Placement((seen.rotation @ turn)[None], translation[None], scale[None])


def crop(
    pixels: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "s s 3"]:
    """The object alone on white, as large as the model's own crops show it.

    Raises:
        LociError: for an object that is less than three pixels across.
    """
    inside = torch.from_numpy(mask)[None].float()
    # Crops are filled up with zeros, which so become white as well.
    dark = (1 - torch.from_numpy(pixels.copy()).movedim(-1, 0).float() / 255) * inside
    cut = 1 - latent_inputs(dark, inside, SIDE)["image"][0]
    return (cut * 255).round().to(torch.uint8).movedim(0, -1).numpy()


def splats(surface: Float[Tensor, "n 9"]) -> Gaussians:
    """Surface samples (place, normal, colour) as small opaque Gaussians."""
    place, color = surface[:, :3], surface[:, 6:]
    return Gaussians(
        place,
        (color - 0.5) / SH_BAND_0,
        torch.full_like(place, SPLAT),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(place), 4),
        torch.full((len(place),), OPAQUE),
    )


def _extent(mask: Bool[Tensor, "h w"], fov: float) -> float:
    """The longer side of the mask's bounds, at depth 1."""
    spans = (torch.nonzero(mask).amax(dim=0) - torch.nonzero(mask).amin(dim=0) + 1).amax()
    return float(spans) * 2 * math.tan(math.radians(fov) / 2) / mask.shape[1]


def _unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)
