"""What the stage-2 flow learns from: encoded objects, and random pictures of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.camera import Camera
from loci.geometry.voxels import voxel_centers
from loci.nn.sparse.voxels import Voxels
from loci.objects.inputs.pixel_aligned import pixel_aligned
from loci.objects.inputs.preprocess import slat_inputs
from loci.objects.models.slat_encoder import SlatEncoder
from loci.objects.models.slat_flow import SlatStatistics
from loci.objects.placement.pose import MatrixPose
from loci.train.slat.vae_data import (
    MIRROR,
    SlatDataset,
    SlatObject,
    corrupt_voxels,
    slat_vae_batch,
    voxels_to,
)
from loci.train.structure.coordinates import crop_coordinates
from loci.train.structure.scenes import (
    CLEAN,
    ObjectView,
    SceneAugmentation,
    SyntheticScene,
    color_matrix,
    compose,
    random_scene,
)

MIN_STD = 0.05


class EncodedObjects(NamedTuple):
    """Voxels of some objects, the encoder's mean latents of each `[n, c]`, and, where there is a
    picture, its pixels at each `[n, ALIGNED]`."""

    voxels: Voxels
    latents: Tensor
    aligned: Tensor | None = None

    def to(self, device: torch.device) -> EncodedObjects:
        aligned = None if self.aligned is None else self.aligned.to(device)
        return EncodedObjects(voxels_to(self.voxels, device), self.latents.to(device), aligned)


@dataclass(frozen=True)
class PoseJitter:
    """Deviations of a pose found by stage 1 from the true one.

    Attributes:
        degrees: noise of each of three angles.
        translation: noise of the translation, in object sizes.
        scale: noise of the logarithm of the size.
    """

    degrees: float = 3.0
    translation: float = 0.01
    scale: float = 0.03


class SlatFlowBatch(NamedTuple):
    """Encoded objects, the inputs of stage 2 by name, a row for every object, and the object
    coordinates in its crop (`crop_coordinates`)."""

    objects: EncodedObjects
    inputs: dict[str, Tensor]
    coordinates: Float[Tensor, "b 4 g g"]

    def to(self, device: torch.device) -> SlatFlowBatch:
        inputs = {name: x.to(device) for name, x in self.inputs.items()}
        return SlatFlowBatch(self.objects.to(device), inputs, self.coordinates.to(device))


@torch.no_grad()
def encode_objects(
    items: Sequence[SlatObject], encoder: SlatEncoder, dtype: torch.dtype = torch.float32
) -> EncodedObjects:
    """The objects as they are, on the encoder's device; matrix products in `dtype`."""
    device = next(encoder.parameters()).device
    batch = slat_vae_batch(items, 0, torch.Generator()).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
        latents = encoder(batch.features, batch.voxels)[0]
    return EncodedObjects(batch.voxels, latents.float())


def latent_statistics(
    objects: SlatDataset, encoder: SlatEncoder, count: int = 128
) -> SlatStatistics:
    """Mean and deviation of each channel over the voxels of `count` objects."""
    chosen = torch.linspace(0, len(objects) - 1, min(count, len(objects))).long().tolist()
    latents = torch.cat([encode_objects([objects.items[i]], encoder).latents for i in chosen])
    std = latents.std(dim=0).clamp(min=MIN_STD)
    return SlatStatistics(tuple(latents.mean(dim=0).tolist()), tuple(std.tolist()))


def flow_batch(
    objects: SlatDataset,
    encoder: SlatEncoder,
    count: int,
    size: int,
    augmentation: SceneAugmentation,
    corruption: float,
    rng: torch.Generator,
    pose_noise: PoseJitter | None = None,
    dtype: torch.dtype = torch.float32,
) -> SlatFlowBatch:
    """Random objects, each in a picture of one random view; encoded on the encoder's device.

    Mirrored and recoloured objects are so in the picture and in what is encoded. At most the share
    `corruption` of the voxels is lost or wrong, as for the autoencoder, and poses are noisy.
    """
    pose_noise = pose_noise or PoseJitter()
    rest = replace(augmentation, mirrored=0.0, recolored=0.0)  # what is done to pictures alone

    def other_view() -> ObjectView:
        return random_view(objects, int(torch.randint(len(objects), (), generator=rng)), rng)

    def inputs_of(scene: SyntheticScene) -> dict[str, Tensor]:
        return slat_inputs(scene.rgb, scene.mask, size)

    items, inputs, coordinates, aligned = [], [], [], []
    for number in torch.randperm(len(objects), generator=rng)[:count].tolist():
        item, view = objects.items[number], random_view(objects, number, rng)
        if torch.rand((), generator=rng) < augmentation.mirrored:
            item, view = MIRROR.apply(item), view.mirrored()
        if torch.rand((), generator=rng) < augmentation.recolored:
            matrix = color_matrix(rng)
            item = _in_colors(item, matrix)
            color = torch.einsum("ij,jhw->ihw", matrix, view.color).clamp(0, 1)
            view = view._replace(color=color)
        items.append(corrupt_voxels(item, corruption, rng))
        scene, made = random_scene(view, other_view, rest, rng, inputs_of)
        aligned.append(aligned_pixels(items[-1], perturb_pose(view, pose_noise, rng), scene))
        inputs.append(made)
        coordinates.append(crop_coordinates(view, scene))
    encoded = encode_objects(items, encoder, dtype)
    encoded = encoded._replace(aligned=torch.cat(aligned).to(encoded.latents.device))
    merged = {name: torch.cat([x[name] for x in inputs]) for name in inputs[0]}
    return SlatFlowBatch(encoded, merged, torch.stack(coordinates))


def aligned_pixels(
    item: SlatObject, view: ObjectView, scene: SyntheticScene
) -> Float[Tensor, "n a"]:
    """The scene's pixels at an object's voxels, at the view's pose."""
    centers = voxel_centers(item.coords, item.resolution)
    camera = Camera.from_pose(*view.placement, view.fov)
    return pixel_aligned(centers, 1 / item.resolution, camera, scene.rgb, scene.mask)


def perturb_pose(view: ObjectView, noise: PoseJitter, rng: torch.Generator) -> ObjectView:
    """The view with a pose as stage 1 might find it."""
    rotation, translation, scale = view.placement
    axis = math.radians(noise.degrees) * torch.randn(3, generator=rng)
    x, y, z = axis.tolist()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
    moved = translation + noise.translation * scale * torch.randn(3, generator=rng)
    sized = scale * torch.exp(noise.scale * torch.randn((), generator=rng))
    return view._replace(placement=MatrixPose(rotation @ turn, moved, sized))


def crop_voxels(objects: EncodedObjects, count: int, rng: torch.Generator) -> EncodedObjects:
    """The `count` voxels of every object nearest to a random one of its own."""
    rows = []
    for item in objects.voxels.items:
        coords = objects.voxels.coords[item, 1:]
        center = coords[int(torch.randint(len(coords), (), generator=rng))]
        distance = (coords - center).square().sum(dim=1)
        nearest = distance.argsort(stable=True)[:count].sort().values
        rows.append(nearest + item.start)
    chosen = torch.cat(rows)
    aligned = None if objects.aligned is None else objects.aligned[chosen]
    return EncodedObjects(Voxels(objects.voxels.coords[chosen]), objects.latents[chosen], aligned)


def random_view(objects: SlatDataset, number: int, rng: torch.Generator) -> ObjectView:
    """One of an object's views."""
    return objects.view(number, int(torch.randint(objects.views, (), generator=rng))).view


def clean_scene(view: ObjectView, rng: torch.Generator) -> SyntheticScene:
    """A view before a random plain background, for evaluations."""
    return compose(view, view, CLEAN, rng)


def _in_colors(item: SlatObject, matrix: Float[Tensor, "3 3"]) -> SlatObject:
    geometry, color = item.surface.float().split([6, 3], dim=1)
    color = (color @ matrix.T).clamp(0, 1)
    return item._replace(surface=torch.cat([geometry, color], dim=1))
