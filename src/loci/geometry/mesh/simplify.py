"""Fewer faces and closed holes."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from loci.errors import LociError, install_hint
from loci.geometry.mesh.mesh import Mesh

MAX_HOLE_EDGES = 55
"""Edges around the largest hole that is filled, as in SAM 3D Objects."""


def need_decimation() -> None:
    """Raises LociError when a package that `decimate` needs is missing."""
    names = {"fast_simplification": "fast-simplification", "scipy": "scipy"}
    missing = [name for module, name in names.items() if find_spec(module) is None]
    if missing:
        raise LociError(f"fewer faces need {' and '.join(missing)}: {install_hint('objects')}")


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with at most about `faces` faces, by quadric error decimation.

    Vertices take the colour of the nearest vertex of the original; learned normals are dropped.

    Raises:
        LociError: for fewer than 4 faces, or when a package is missing.
    """
    if faces < 4:
        raise LociError(f"{faces} faces, expected at least 4")
    if len(mesh.faces) <= faces:
        return replace(mesh, learned_normals=None)
    need_decimation()
    import fast_simplification
    from scipy.spatial import KDTree

    vertices = mesh.vertices.detach().float().cpu().numpy()
    triangles = mesh.faces.cpu().numpy().astype(np.int32)
    points, triangles = fast_simplification.simplify(vertices, triangles, target_count=faces)[:2]
    _, nearest = KDTree(vertices).query(points)
    colors = None if mesh.colors is None else mesh.colors[torch.from_numpy(nearest)]
    device = mesh.vertices.device
    return Mesh(
        torch.from_numpy(points.astype(np.float32)).to(device),
        torch.from_numpy(triangles.astype(np.int64)).to(device),
        colors,
    )


def fill_holes(
    mesh: Mesh, max_edges: int = MAX_HOLE_EDGES, among: Bool[Tensor, "v"] | None = None
) -> Mesh:
    """Fills holes with a fan of triangles around their centre, which takes the mean colour.

    Holes whose boundary touches itself stay open.

    Args:
        mesh: without a texture.
        max_edges: longer holes stay open,
        among: except those whose boundary vertices are all in this mask.
    """
    loops = [
        torch.tensor(loop, device=mesh.faces.device)
        for loop in boundary_loops(mesh.faces)
        if len(loop) <= max_edges or (among is not None and bool(among[loop].all()))
    ]
    if not loops:
        return mesh
    faces = [mesh.faces]
    for number, loop in enumerate(loops):
        center = torch.full_like(loop, len(mesh.vertices) + number)
        # Against the direction of the adjacent faces, so that the winding is consistent.
        faces.append(torch.stack([loop.roll(-1), loop, center], dim=1))

    def with_centers(values: Tensor) -> Tensor:
        return torch.cat([values, *(values[loop].mean(dim=0, keepdim=True) for loop in loops)])

    normals = mesh.learned_normals
    return replace(
        mesh,
        vertices=with_centers(mesh.vertices),
        faces=torch.cat(faces),
        colors=None if mesh.colors is None else with_centers(mesh.colors),
        learned_normals=None if normals is None else with_centers(normals),
    )


def boundary_loops(faces: Tensor) -> list[list[int]]:
    """Boundaries of all holes, as vertices in the direction of the adjacent faces."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()
    directed = {(a, b) for a, b in edges}
    following: dict[int, list[int]] = {}
    for a, b in edges:
        if (b, a) not in directed:
            following.setdefault(a, []).append(b)
    loops = []
    for start in list(following):
        loop, vertex = [], start
        while len(following.get(vertex, ())) == 1 and vertex not in loop:
            loop.append(vertex)
            vertex = following[vertex][0]
        if len(loop) >= 3 and vertex == start:
            loops.append(loop)
        for vertex in loop:
            following.pop(vertex, None)
    return loops
