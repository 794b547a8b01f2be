"""From the occupied voxels of stage 1 to those of stage 2 and of the decoders.

Voxels are integers (item, x, y, z). Those of the interior are dropped; the others are merged if
the preset says so, and coarsened if there are too many.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from loci.acceleration.aggregation import Aggregation, shrunk
from loci.acceleration.presets import Preset
from loci.acceleration.spectral import DecodingConfig, token_scores
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.voxels import voxel_centers
from loci.nn.sparse.voxels import Voxels

VOXEL_LIMIT = 42000
"""With more voxels than this, SAM 3D Objects moves the object to a coarser grid before stage 2."""


def prune_interior(coords: Int[Tensor, "n 4"], distance: int = 1) -> Int[Tensor, "m 4"]:
    """Drops interior voxels: those whose cube of side 2 distance + 1 is full. Keeps the order.

    The items of a batch do not see each other.
    """
    is_surface = torch.ones(len(coords), dtype=torch.bool, device=coords.device)
    for item in coords[:, 0].unique():
        of_item = coords[:, 0] == item
        is_surface[of_item] = ~_is_interior(coords[of_item, 1:].long(), distance)
    return coords[is_surface]


def downsample_voxels(
    coords: Int[Tensor, "n 4"],
    limit: int = VOXEL_LIMIT,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "m 4"], int]:
    """At most `limit` voxels, and the factor by which the object shrank in its grid.

    With more than `limit` the object shrinks to half its size about the middle of its bounds
    (factor 2, by which its scale must be multiplied). Its voxels are then distinct and in
    lexicographic order; if there are still too many, a random subset remains. With at most `limit`
    they are returned as they are, with factor 1. A flat axis keeps its coordinate.
    """
    if len(coords) <= limit:
        return coords, 1
    fewer = torch.unique(shrunk(coords, 2), dim=0)
    if len(fewer) > limit:
        subset = torch.randperm(len(fewer), generator=generator)[:limit]
        fewer = fewer[subset.sort().values.to(fewer.device)]
    return fewer, 2


def _is_interior(coords: Int[Tensor, "n 3"], distance: int) -> Bool[Tensor, "n"]:
    coords = coords - coords.amin(dim=0)
    side = 2 * distance + 1
    grid = torch.zeros(*(coords.amax(dim=0) + 1).tolist(), device=coords.device)
    grid[coords.unbind(1)] = 1
    empty = F.pad(1 - grid[None, None], (distance,) * 6, value=1.0)
    near_empty = F.max_pool3d(empty, side, stride=1)[0, 0]
    return near_empty[coords.unbind(1)] == 0


class VoxelChoice(NamedTuple):
    """The voxels of an object, for stage 2 and for each decoder.

    Attributes:
        structure: coordinates (item, x, y, z) from stage 1, without the interior.
        voxels: those of stage 2 and of the Gaussian decoder.
        mesh_voxels: those of the mesh decoder.
        scores: of each of `voxels`, for token caching (`spectral.token_scores`).
        centers: of `voxels` in the object frame at its true size; a merged voxel has the mean of
            its children's.
        voxel_size: side of one of `voxels`, likewise.
        downsample_factor: by which the object shrank in its grid and the pose's scale is
            multiplied.
        aggregation: how voxels were merged by their spectrum; None if they were not.
        spectral_ratio: the joint ratio that decides on merging; None if it was not computed.
    """

    structure: Int[Tensor, "k 4"]
    voxels: Voxels
    mesh_voxels: Voxels
    scores: Float[Tensor, "n"]
    centers: Float[Tensor, "n 3"]
    voxel_size: float
    downsample_factor: float = 1
    aggregation: Aggregation | None = None
    spectral_ratio: float | None = None

    @property
    def merges_mesh_only(self) -> bool:
        """Whether voxels are merged after stage 2, for the mesh decoder only."""
        return self.voxels is not self.mesh_voxels

    def mesh_latents(self, latents: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
        """Latents of `mesh_voxels`, from those of `voxels`."""
        if self.aggregation is None or not self.merges_mesh_only:
            return latents
        return self.aggregation.pooled(latents)

    def restore_gaussians(self, gaussians: Gaussians) -> Gaussians:
        """Decoded Gaussians at the object's true size."""
        if self.aggregation is None or self.merges_mesh_only:
            return gaussians
        factor, shift = self.aggregation.asset_factor, self.aggregation.asset_shift
        return replace(
            gaussians,
            positions=gaussians.positions * factor + shift,
            scales=gaussians.scales * factor,
        )

    def restore_mesh(self, mesh: Mesh) -> Mesh:
        """A decoded mesh at the object's true size."""
        if self.aggregation is None:
            return mesh
        factor, shift = self.aggregation.asset_factor, self.aggregation.asset_shift
        return replace(mesh, vertices=mesh.vertices * factor + shift)


def choose_voxels(
    coords: Int[Tensor, "n 4"],
    logits: Float[Tensor, "1 1 r r r"],
    rgba: UInt8[Tensor, "h w 4"],
    preset: Preset,
    prune_depth: int,
    limit: int,
    generator: torch.Generator,
) -> VoxelChoice:
    """Prune, score and merge the voxels of stage 1.

    Args:
        coords: occupied voxels, at least one.
        logits: occupancy logits of the whole grid.
        rgba: the picture around the object, with the mask as its alpha channel.
        preset: whether to prune the interior, which voxels to drop, and how finely to decode.
        prune_depth: see `LifterConfig`.
        limit: most voxels of stage 2.
        generator: draws the voxels that are dropped.
    """
    if prune_depth and preset.prunes_interior:
        coords = prune_interior(coords, prune_depth)
    if preset.drop_voxels:
        coords = preset.drop_voxels(coords, generator)
    values = logits[0, 0][coords[:, 1:].long().unbind(1)]
    resolution = logits.shape[-1]
    scores = token_scores(coords, values, resolution)
    if preset.decoding is None:
        return _unmerged(coords, scores, resolution, limit, generator)
    config = preset.decoding
    ratios = config.image_ratio(rgba), config.grid_ratio(coords, values, resolution)
    factor = config.factor(*ratios, len(coords), resolution)
    if factor == 1 and not config.always_merges:
        choice = _unmerged(coords, scores, resolution, limit, generator)
    else:
        choice = _merged(coords, scores, resolution, factor, config, limit, generator)
    return choice._replace(spectral_ratio=config.joint_ratio(*ratios))


def _unmerged(
    coords: Tensor, scores: Tensor, resolution: int, limit: int, generator: torch.Generator
) -> VoxelChoice:
    """Coarsened only if there are more than `limit`."""
    fewer, factor = downsample_voxels(coords, limit, generator)
    centers = voxel_centers(coords[:, 1:], resolution)
    if factor > 1:
        # The logits belong to the finer grid; in the coarser one all voxels count as 1.
        scores = token_scores(fewer, torch.ones_like(fewer[:, 0]), resolution)
        distinct, parent = torch.unique(shrunk(coords, factor), dim=0, return_inverse=True)
        centers = Aggregation(distinct, parent, factor).pooled(centers, "mean")
        strides = torch.tensor([resolution**2, resolution, 1], device=coords.device)
        cells, remaining = ((c[:, 1:] * strides).sum(dim=1) for c in (distinct, fewer))
        centers = centers[torch.searchsorted(cells, remaining)]
    voxels = Voxels(fewer)
    return VoxelChoice(fewer, voxels, voxels, scores, centers, factor / resolution, factor)


def _merged(
    coords: Tensor,
    scores: Tensor,
    resolution: int,
    factor: float,
    config: DecodingConfig,
    limit: int,
    generator: torch.Generator,
) -> VoxelChoice:
    """Merged before stage 2, or for the mesh decoder only (`DecodingConfig.merges_for_mesh`)."""
    if config.merges_for_mesh:
        choice = _unmerged(coords, scores, resolution, limit, generator)
        aggregation = config.aggregate(choice.voxels.coords, factor, resolution)
        return choice._replace(aggregation=aggregation, mesh_voxels=Voxels(aggregation.coords))
    aggregation = config.aggregate(coords, factor, resolution)
    kept = aggregation.subset(limit, generator)
    voxels, scores = Voxels(aggregation.coords[kept]), aggregation.pooled(scores)[kept]
    centers = aggregation.pooled(voxel_centers(coords[:, 1:], resolution), "mean")[kept]
    size, factor = aggregation.factor / resolution, aggregation.pose_factor
    return VoxelChoice(coords, voxels, voxels, scores, centers, size, factor, aggregation)
