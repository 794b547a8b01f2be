"""Operations on lists of occupied voxels: integer rows (batch, x, y, z)."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from loci.caching.aggregation import Aggregation, shrunk
from loci.caching.presets import Preset
from loci.caching.spectral import DecodingConfig, token_scores
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.nn.sparse.tensor import Voxels

VOXEL_LIMIT = 42000
"""More voxels than this are brought to a coarser grid before stage 2 (SAM 3D Objects, 7)."""


def prune(coords: Int[Tensor, "n 4"], distance: int = 1) -> Int[Tensor, "m 4"]:
    """Drop interior voxels: those whose cube of side 2 distance + 1 is full. Keeps the order.

    Every item of a batch is looked at by itself.
    """
    kept = torch.ones(len(coords), dtype=torch.bool, device=coords.device)
    for item in coords[:, 0].unique():
        rows = coords[:, 0] == item
        kept[rows] = ~_interior(coords[rows, 1:].long(), distance)
    return coords[kept]


def coarsen(
    coords: Int[Tensor, "n 4"],
    limit: int = VOXEL_LIMIT,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "m 4"], int]:
    """At most `limit` voxels, and the factor by which the object shrank in its grid.

    With more than `limit` the object is drawn at half its size around the middle of its bounds
    (factor 2, which the object's scale must be multiplied by), each place listed once in
    lexicographic order; what is still too much is cut to a random subset. Else nothing happens
    and the factor is 1. An axis on which the object is flat keeps its coordinate.
    """
    if len(coords) <= limit:
        return coords, 1
    fewer = torch.unique(shrunk(coords, 2), dim=0)
    if len(fewer) > limit:
        chosen = torch.randperm(len(fewer), generator=generator)[:limit]
        fewer = fewer[chosen.sort().values.to(fewer.device)]
    return fewer, 2


def _interior(places: Int[Tensor, "n 3"], distance: int) -> Bool[Tensor, "n"]:
    places = places - places.amin(dim=0)
    side = 2 * distance + 1
    grid = torch.zeros(*(places.amax(dim=0) + 1).tolist(), device=places.device)
    grid[places.unbind(1)] = 1
    empty = F.pad(1 - grid[None, None], (distance,) * 6, value=1.0)
    near_empty = F.max_pool3d(empty, side, stride=1)[0, 0]
    return near_empty[places.unbind(1)] == 0


class VoxelChoice(NamedTuple):
    """The structure of an object, and on which voxels it is carried out.

    Attributes:
        structure: rows (item, x, y, z) as stage 1 found them, pruned.
        voxels: those of stage 2 and of the Gaussians.
        mesh_voxels: those of the mesh.
        scores: of each of `voxels`, for the carving of tokens (`spectral.token_scores`).
        places: where each of `voxels` stands in the object's frame, before anything is drawn
            smaller: the mean of those that it stands for.
        width: of one of them, there.
        shrunk: how many times smaller than its grid says the object was drawn; the pose's scale
            makes up for it.
        merged: how voxels were merged for their spectrum's sake, None if they were not.
        detail: the joint spectral ratio that decides it, None if it was not asked for.
    """

    structure: Int[Tensor, "k 4"]
    voxels: Voxels
    mesh_voxels: Voxels
    scores: Float[Tensor, "n"]
    places: Float[Tensor, "n 3"]
    width: float
    shrunk: float = 1
    merged: Aggregation | None = None
    detail: float | None = None

    @property
    def late(self) -> bool:
        """Whether voxels are merged for the mesh alone, after stage 2."""
        return self.voxels is not self.mesh_voxels

    def mesh_latents(self, latents: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
        """What the mesh decoder takes on `mesh_voxels`."""
        return self.merged.pooled(latents) if self.merged and self.late else latents

    def true_gaussians(self, gaussians: Gaussians) -> Gaussians:
        """At the size that the pose is for."""
        if self.merged is None or self.late:
            return gaussians
        factor, shift = self.merged.asset_factor, self.merged.asset_shift
        return replace(
            gaussians,
            positions=gaussians.positions * factor + shift,
            scales=gaussians.scales * factor,
        )

    def true_mesh(self, mesh: Mesh) -> Mesh:
        """Likewise."""
        if self.merged is None:
            return mesh
        factor, shift = self.merged.asset_factor, self.merged.asset_shift
        return replace(mesh, vertices=mesh.vertices * factor + shift)


def choose_voxels(
    coords: Int[Tensor, "n 4"],
    logits: Float[Tensor, "1 1 r r r"],
    cutout: UInt8[Tensor, "h w 4"],
    speed: Preset,
    depth: int,
    limit: int,
    chance: torch.Generator,
) -> VoxelChoice:
    """Prune, score and merge what stage 1 found.

    Args:
        coords: occupied voxels, at least one.
        logits: of the whole grid.
        cutout: the object's picture, alpha its mask.
        speed: whether to prune, what to drop, and how finely to decode.
        depth: how deep inside voxels are pruned, 0 for none.
        limit: voxels that stage 2 takes at most.
        chance: decides which are dropped, and which go when there are still too many.
    """
    if depth and speed.prune:
        coords = prune(coords, depth)
    if speed.drop_voxels:
        coords = speed.drop_voxels(coords, chance)
    values = logits[0, 0][coords[:, 1:].long().unbind(1)]
    resolution = logits.shape[-1]
    scores = token_scores(coords, values, resolution)
    if speed.decoding is None:
        return _whole(coords, scores, resolution, limit, chance)
    config = speed.decoding
    ratios = config.image_ratio(cutout), config.grid_ratio(coords, values, resolution)
    factor = config.factor(*ratios, len(coords), resolution)
    if factor == 1 and not config.always_merges:
        choice = _whole(coords, scores, resolution, limit, chance)
    else:
        choice = _merged(coords, scores, resolution, factor, config, limit, chance)
    return choice._replace(detail=config.joint_ratio(*ratios))


def _whole(
    coords: Tensor, scores: Tensor, resolution: int, limit: int, chance: torch.Generator
) -> VoxelChoice:
    """Coarser only if it has to be (SAM 3D Objects, 7)."""
    fewer, factor = coarsen(coords, limit, chance)
    places = _middles(coords, resolution)
    if factor > 1:
        # The logits are of the finer grid; of the coarser one the occupancy is known.
        scores = token_scores(fewer, torch.ones_like(fewer[:, 0]), resolution)
        there, parent = torch.unique(shrunk(coords, factor), dim=0, return_inverse=True)
        places = Aggregation(there, parent, factor).pooled(places, "mean")
        grid = torch.tensor([resolution**2, resolution, 1], device=coords.device)
        cells, wanted = ((c[:, 1:] * grid).sum(dim=1) for c in (there, fewer))
        places = places[torch.searchsorted(cells, wanted)]
    voxels = Voxels(fewer)
    return VoxelChoice(fewer, voxels, voxels, scores, places, factor / resolution, factor)


def _merged(
    coords: Tensor,
    scores: Tensor,
    resolution: int,
    factor: float,
    config: DecodingConfig,
    limit: int,
    chance: torch.Generator,
) -> VoxelChoice:
    """Merged before stage 2, or only for the mesh decoder (`DecodingConfig.merges_for_mesh`)."""
    if config.merges_for_mesh:
        found = _whole(coords, scores, resolution, limit, chance)
        merged = config.aggregate(found.voxels.coords, factor, resolution)
        return found._replace(merged=merged, mesh_voxels=Voxels(merged.coords))
    merged = config.aggregate(coords, factor, resolution)
    rows = merged.subset(limit, chance)
    voxels, scores = Voxels(merged.coords[rows]), merged.pooled(scores)[rows]
    places = merged.pooled(_middles(coords, resolution), "mean")[rows]
    width = merged.factor / resolution
    return VoxelChoice(coords, voxels, voxels, scores, places, width, merged.pose_factor, merged)


def _middles(coords: Int[Tensor, "n 4"], resolution: int) -> Float[Tensor, "n 3"]:
    return (coords[:, 1:].float() + 0.5) / resolution - 0.5
