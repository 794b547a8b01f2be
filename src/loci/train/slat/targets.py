"""What the stage-2 flow learns to make: encoded voxels, and the pictures they belong to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.camera import Camera
from loci.nn.sparse.tensor import Voxels
from loci.objects.inputs.pixel_aligned import pixel_aligned
from loci.objects.inputs.pointmap import Placement
from loci.objects.inputs.preprocess import latent_inputs
from loci.objects.models.slat_encoder import SlatEncoder
from loci.objects.models.slat_flow import LatentStatistics
from loci.train.precision import multiplying
from loci.train.slat.vae_data import MIRROR, SlatDataset, SlatObject, disturbed, slat_vae_batch
from loci.train.structure.data import coordinates_in_crop
from loci.train.structure.scenes import (
    CLEAN,
    SceneVariety,
    Sight,
    SyntheticScene,
    compose,
    pictured,
    recoloring,
)

SMALLEST_STD = 0.05


class Encoded(NamedTuple):
    """Voxels of some objects, the mean latents `[n, c]` of each, as the encoder gives them, and the
    pixels of each `[n, ALIGNED]`, where there is a picture."""

    voxels: Voxels
    latents: Tensor
    aligned: Tensor | None = None


@dataclass(frozen=True)
class Jolt:
    """Deviations of a found pose from the true one: of each of three angles, of its place and of
    its size as parts of its size."""

    degrees: float = 3.0
    places: float = 0.01
    sizes: float = 0.03


class FlowBatch(NamedTuple):
    """Encoded voxels, the inputs of stage 2 by name, a row for every object, and what its crop
    shows (`coordinates_in_crop`)."""

    encoded: Encoded
    inputs: dict[str, Tensor]
    coordinates: Float[Tensor, "b 4 g g"]


@torch.no_grad()
def encoded(
    items: Sequence[SlatObject], encoder: SlatEncoder, dtype: torch.dtype = torch.float32
) -> Encoded:
    """The objects as they are; `dtype` is multiplied in."""
    batch = slat_vae_batch(items, 0, torch.Generator())
    with multiplying(dtype):
        latents = encoder(batch.features, batch.voxels)[0]
    return Encoded(batch.voxels, latents.float())


def latent_statistics(
    objects: SlatDataset, encoder: SlatEncoder, count: int = 128
) -> LatentStatistics:
    """Mean and deviation of each channel over the voxels of `count` objects."""
    chosen = torch.linspace(0, len(objects) - 1, min(count, len(objects))).long().tolist()
    latents = torch.cat([encoded([objects.items[i]], encoder).latents for i in chosen])
    std = latents.std(dim=0).clamp(min=SMALLEST_STD)
    return LatentStatistics(tuple(latents.mean(dim=0).tolist()), tuple(std.tolist()))


def flow_batch(
    objects: SlatDataset,
    encoder: SlatEncoder,
    count: int,
    size: int,
    variety: SceneVariety,
    disturbance: float,
    rng: torch.Generator,
    jolt: Jolt | None = None,
    dtype: torch.dtype = torch.float32,
) -> FlowBatch:
    """Random objects, each in a picture of one random view.

    Mirrored and recoloured objects are so in the picture and in what is encoded; voxels are
    disturbed as for the autoencoder, and poses by `jolt`. Encoding multiplies in `dtype`.
    """
    jolt = jolt or Jolt()
    plain = replace(variety, mirrored=0.0, recolored=0.0)

    def another() -> Sight:
        return random_sight(objects, int(torch.randint(len(objects), (), generator=rng)), rng)

    def inputs_of(scene: SyntheticScene) -> dict[str, Tensor]:
        return latent_inputs(scene.rgb, scene.mask, size)

    items, shown, places, aligned = [], [], [], []
    for number in torch.randperm(len(objects), generator=rng)[:count].tolist():
        item, sight = objects.items[number], random_sight(objects, number, rng)
        if torch.rand((), generator=rng) < variety.mirrored:
            item, sight = MIRROR.apply(item), sight.mirrored()
        if torch.rand((), generator=rng) < variety.recolored:
            matrix = recoloring(rng)
            item = _in_colors(item, matrix)
            color = torch.einsum("ij,jhw->ihw", matrix, sight.color).clamp(0, 1)
            sight = sight._replace(color=color)
        items.append(disturbed(item, disturbance, rng))
        scene, inputs = pictured(sight, another, plain, rng, inputs_of)
        aligned.append(pixels_of(items[-1], jolted(sight, jolt, rng), scene))
        shown.append(inputs)
        places.append(coordinates_in_crop(sight, scene))
    inputs = {name: torch.cat([x[name] for x in shown]) for name in shown[0]}
    whole = encoded(items, encoder, dtype)._replace(aligned=torch.cat(aligned))
    return FlowBatch(whole, inputs, torch.stack(places))


def pixels_of(item: SlatObject, sight: Sight, scene: SyntheticScene) -> Float[Tensor, "n a"]:
    """What a scene shows of an object's voxels, where the sight says that it stands."""
    places = (item.coords.float() + 0.5) / item.resolution - 0.5
    camera = Camera.of_pose(*sight.placement, sight.fov)
    return pixel_aligned(places, 1 / item.resolution, camera, scene.rgb, scene.mask)


def jolted(sight: Sight, jolt: Jolt, rng: torch.Generator) -> Sight:
    """Where a pose that was found, not known, may put the object."""
    rotation, translation, scale = sight.placement
    axis = math.radians(jolt.degrees) * torch.randn(3, generator=rng)
    x, y, z = axis.tolist()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
    moved = translation + jolt.places * scale * torch.randn(3, generator=rng)
    sized = scale * torch.exp(jolt.sizes * torch.randn((), generator=rng))
    return sight._replace(placement=Placement(rotation @ turn, moved, sized))


def cut(whole: Encoded, most: int, rng: torch.Generator) -> Encoded:
    """Of every object the `most` voxels around a random one of its own."""
    kept = []
    for rows in whole.voxels.items:
        coords = whole.voxels.coords[rows, 1:]
        middle = coords[int(torch.randint(len(coords), (), generator=rng))]
        away = (coords - middle).square().sum(dim=1)
        nearest = away.argsort(stable=True)[:most].sort().values
        kept.append(nearest + rows.start)
    chosen = torch.cat(kept)
    aligned = None if whole.aligned is None else whole.aligned[chosen]
    return Encoded(Voxels(whole.voxels.coords[chosen]), whole.latents[chosen], aligned)


def random_sight(objects: SlatDataset, number: int, rng: torch.Generator) -> Sight:
    """One of an object's views."""
    return objects.recorded(number, int(torch.randint(objects.views, (), generator=rng))).sight


def clean_scene(sight: Sight, rng: torch.Generator) -> SyntheticScene:
    """A view before a random plain background, for examinations."""
    return compose(sight, sight, CLEAN, rng)


def _in_colors(item: SlatObject, matrix: Float[Tensor, "3 3"]) -> SlatObject:
    place, color = item.surface.float().split([6, 3], dim=1)
    color = (color @ matrix.T).clamp(0, 1)
    return item._replace(surface=torch.cat([place, color], dim=1))
