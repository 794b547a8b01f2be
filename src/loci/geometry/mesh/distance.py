"""Chamfer distance and F-score of two surfaces, by points sampled on them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.mesh.mesh import Mesh

ROWS_AT_ONCE = 2048


class SurfaceDistance(NamedTuple):
    """Distance of a surface to the true one.

    Attributes:
        chamfer: mean distance to the nearest point of the other, averaged over both directions,
            in the points' units.
        f_score: harmonic mean of precision and recall within a distance limit, 0..1.
    """

    chamfer: float
    f_score: float


def mesh_points(
    mesh: Mesh, count: int, generator: torch.Generator | None = None
) -> Float[Tensor, "count 3"]:
    """Points uniform over a mesh's area; `[0, 3]` when it has none."""
    corners = mesh.vertices[mesh.faces]
    a, b, c = corners.unbind(1)
    areas = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    if not areas.sum() > 0:
        return mesh.vertices.new_zeros(0, 3)
    # In float64, so on the CPU (MPS has none). Not torch.multinomial: it takes at most 2^24
    # categories.
    ends = areas.cpu().double().cumsum(0)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1]
    face = torch.searchsorted(ends, drawn).clamp(max=len(areas) - 1).to(areas.device)
    u, v = torch.rand(2, count, 1, generator=generator).to(corners)
    root = u.sqrt()
    return (1 - root) * a[face] + root * (1 - v) * b[face] + root * v * c[face]


def nearest_distances(
    points: Float[Tensor, "n 3"], others: Float[Tensor, "m 3"]
) -> Float[Tensor, "n"]:
    """Distance of each point to the nearest of the others; infinite when there are none."""
    if not len(others):
        return points.new_full((len(points),), torch.inf)
    parts = [torch.cdist(rows, others).amin(dim=1) for rows in points.split(ROWS_AT_ONCE)]
    return torch.cat(parts) if parts else points.new_zeros(0)


def surface_distance(
    points: Float[Tensor, "n 3"], truth: Float[Tensor, "m 3"], limit: float = 0.05
) -> SurfaceDistance:
    """Chamfer distance and F-score of sampled surfaces.

    A surface without points is infinitely far away and scores 0.
    """
    if not len(points) or not len(truth):
        return SurfaceDistance(float("inf"), 0.0)
    there, back = nearest_distances(points, truth), nearest_distances(truth, points)
    precision, recall = (float((d < limit).float().mean()) for d in (there, back))
    total = precision + recall
    score = 2 * precision * recall / total if total else 0.0
    return SurfaceDistance(float(there.mean() + back.mean()) / 2, score)
