"""Holes in a mesh, closed: an edge that only one face has lies on the rim of one."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from loci.geometry.mesh import Mesh

LONGEST = 55
"""Edges around the largest hole that is closed (SAM 3D Objects, 12)."""


def closed(mesh: Mesh, longest: int = LONGEST, among: Bool[Tensor, "v"] | None = None) -> Mesh:
    """Every hole of at most `longest` edges gets a fan around its middle, and however long, every
    one whose rim lies `among` some vertices; colours of the middle are the mean of the rim's. Rims
    that touch themselves stay open. The mesh has no texture yet.
    """
    rims = [
        rim
        for rim in boundary_loops(mesh.faces)
        if len(rim) <= longest or (among is not None and bool(among[rim].all()))
    ]
    if not rims:
        return mesh
    faces, middles = [mesh.faces], []
    for number, rim in enumerate(rims):
        loop = torch.tensor(rim, device=mesh.faces.device)
        middle = torch.full_like(loop, len(mesh.vertices) + number)
        # The other way round than the faces at the rim, so that all look outside.
        faces.append(torch.stack([loop.roll(-1), loop, middle], dim=1))
        middles.append(loop)

    def with_middles(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return torch.cat([values, *(values[loop].mean(dim=0, keepdim=True) for loop in middles)])

    vertices = with_middles(mesh.vertices)
    assert vertices is not None
    return replace(
        mesh,
        vertices=vertices,
        faces=torch.cat(faces),
        colors=with_middles(mesh.colors),
        learned_normals=with_middles(mesh.learned_normals),
    )


def boundary_loops(faces: Tensor) -> list[list[int]]:
    """Rims of all holes, as vertices in the direction in which the faces beside them go."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()
    there = {(a, b) for a, b in edges}
    after: dict[int, list[int]] = {}
    for a, b in edges:
        if (b, a) not in there:
            after.setdefault(a, []).append(b)
    loops = []
    for start in list(after):
        loop, at = [], start
        while len(after.get(at, ())) == 1 and at not in loop:
            loop.append(at)
            at = after[at][0]
        if len(loop) >= 3 and at == start:
            loops.append(loop)
        for vertex in loop:
            after.pop(vertex, None)
    return loops
