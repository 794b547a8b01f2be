"""Between the stages: which voxels stage 2 gets, and what that does to the object's size."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from loci.acceleration.aggregation import Aggregation, aggregate, shrunk
from loci.acceleration.spectral import (
    DecodingConfig,
    decoding_factor,
    grid_ratio,
    picture_ratio,
    token_scores,
)
from loci.acceleration.speeds import Speed
from loci.acceleration.token_baselines import random_drop
from loci.geometry.gaussians import Gaussians
from loci.geometry.mesh import Mesh
from loci.layers.sparse import Voxels
from loci.objects.voxels import coarsen, prune


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
        return self.merged.fused(latents) if self.merged and self.late else latents

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
    speed: Speed,
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
    if speed.dropped:
        coords = random_drop(coords, speed.dropped, chance)
    values = logits[0, 0][coords[:, 1:].long().unbind(1)]
    resolution = logits.shape[-1]
    scores = token_scores(coords, values, resolution)
    if speed.decoding is None:
        return _whole(coords, scores, resolution, limit, chance)
    config = speed.decoding
    ratios = (
        picture_ratio(cutout, config.mode),
        grid_ratio(coords, values, resolution, config.mode),
    )
    factor = decoding_factor(*ratios, len(coords), config, resolution)
    if config.mode == "loci" and factor == 1:
        choice = _whole(coords, scores, resolution, limit, chance)
    else:
        choice = _merged(coords, scores, resolution, factor, config, limit, chance)
    return choice._replace(detail=config.joint(*ratios))


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
        places = Aggregation(there, parent, factor).fused(places, "mean")
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
    """Mode `paper` merges at the mesh decoder, the others before stage 2."""
    if config.mode == "paper":
        found = _whole(coords, scores, resolution, limit, chance)
        merged = aggregate(found.voxels.coords, factor, config.mode, resolution)
        return found._replace(merged=merged, mesh_voxels=Voxels(merged.coords))
    merged = aggregate(coords, factor, config.mode, resolution)
    rows = merged.subset(limit, chance)
    voxels, scores = Voxels(merged.coords[rows]), merged.fused(scores)[rows]
    places = merged.fused(_middles(coords, resolution), "mean")[rows]
    width = merged.factor / resolution
    return VoxelChoice(coords, voxels, voxels, scores, places, width, merged.pose_factor, merged)


def _middles(coords: Int[Tensor, "n 4"], resolution: int) -> Float[Tensor, "n 3"]:
    return (coords[:, 1:].float() + 0.5) / resolution - 0.5
