"""Faces that nobody can see from outside, cut off and thrown away.

Decoded surfaces are often walls with an inner side, or enclose bubbles. What is seen from nowhere
goes, together with what is seen from nearly nowhere, up to where the cut through the mesh is
shortest: a minimum cut between the two, so that the rim does not fray.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.geometry.holes import boundary_loops
from loci.geometry.mesh import Mesh
from loci.geometry.mesh_render import face_weights, nearest_faces

UNITS = 1e5
"""Of the lengths of edges, which the cut needs as whole numbers: parts of the object's size."""
ENDLESS = 2**30


@dataclass(frozen=True)
class InsideConfig:
    """What counts as inside. Thresholds are the published ones (SAM 3D Objects, 12); there it is
    1000 views of 1024 pixels, which take minutes without a GPU.

    Attributes:
        views: from which the faces are looked at, evenly around.
        pixels: of them, along a side.
        distance: of their cameras from the object's middle.
        fov: of their cameras, in degrees.
        behind: by how much a face may lie behind what is nearest and still be seen.
        outer: the share of views from which an outer face is seen lies between these, at the
            upper quarter of its connected part.
        hidden: what is cut off goes if half of its faces are seen from fewer views than this,
        opening: and no hole that it leaves is larger than this.
    """

    views: int = 100
    pixels: int = 256
    distance: float = 2.0
    fov: float = 40.0
    behind: float = 0.004
    outer: tuple[float, float] = (0.25, 0.5)
    hidden: float = 0.25
    opening: float = 0.04


@torch.no_grad()
def without_inside(mesh: Mesh, config: InsideConfig | None = None) -> Mesh:
    """The mesh without faces that are inside; vertices that no face uses any more go too.

    Args:
        mesh: in [-0.5, 0.5]^3 or near it, without a texture.
        config: what counts as inside.

    Raises:
        LociError: when scipy is missing.
    """
    if find_spec("scipy") is None:
        raise LociError(
            "cutting off what is inside needs scipy: pip install 'genius-loci[objects]'"
        )
    config = config or InsideConfig()
    if not len(mesh.faces):
        return mesh
    seen = visibility(mesh, config).cpu().numpy()
    gone = inner_faces(mesh, seen, config)
    return mesh if not gone.any() else _kept(mesh, torch.from_numpy(~gone).to(mesh.faces.device))


def visibility(mesh: Mesh, config: InsideConfig) -> Float[Tensor, "f"]:
    """The share of views in which the middle of each face is in sight, in [0, 1]."""
    middles, normals = mesh.vertices[mesh.faces].mean(dim=1), mesh.face_normals
    seen = middles.new_zeros(len(middles))
    for camera in Camera.around(config.views, config.distance, config.fov):
        seen += _in_sight(mesh, middles, normals, camera.to(middles), config)
    return seen / config.views


def _in_sight(
    mesh: Mesh, middles: Tensor, normals: Tensor, camera: Camera, config: InsideConfig
) -> Bool[Tensor, "f"]:
    side = config.pixels
    screen = camera.project(mesh.vertices, side)
    nearest = nearest_faces(screen, mesh.faces, side, side)
    covered = nearest >= 0
    depth = screen.new_full((side, side), torch.inf)
    depth[covered] = face_weights(screen, mesh.faces, nearest, covered)[1]
    x, y, z = camera.project(middles, side).unbind(1)
    column, row = (v.floor().long().clamp(0, side - 1) for v in (x, y))
    cosine = ((camera.eye - middles) * normals).sum(1) / (camera.eye - middles).norm(dim=1)
    # A slanted face is nearer or farther within its own pixel.
    slack = config.behind + z / camera.focal(side) / cosine.clamp(min=0.2)
    return (cosine > 0) & (z < depth[row, column] + slack)


def inner_faces(mesh: Mesh, seen: NDArray[np.float32], config: InsideConfig) -> NDArray[np.bool_]:
    """Which faces are cut off, `[f]`, given the share of views that see each."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow

    first, second, lengths = _neighbours(mesh)
    count = len(seen)
    ones = np.ones(len(first), np.int32)
    graph = coo_matrix((ones, (first, second)), shape=(count, count))
    parts, labels = connected_components(graph, directed=False)
    least = np.array([np.quantile(seen[labels == part], 0.75) for part in range(parts)])
    outer = seen >= least.clip(*config.outer)[labels]
    inner = (seen == 0) & ~outer
    if not inner.any():
        return inner
    source, sink = count, count + 1
    capacity = np.maximum(1, lengths * UNITS).astype(np.int32)
    ends = (np.flatnonzero(inner), np.flatnonzero(outer))
    rows = np.concatenate([first, second, np.full(len(ends[0]), source), ends[1]])
    columns = np.concatenate([second, first, ends[0], np.full(len(ends[1]), sink)])
    endless = np.full(len(ends[0]) + len(ends[1]), ENDLESS, np.int32)
    values = np.concatenate([capacity, capacity, endless])
    network = coo_matrix((values, (rows, columns)), shape=(count + 2,) * 2, dtype=np.int32).tocsr()
    left = network - maximum_flow(network, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    cut = np.zeros(count + 2, bool)
    cut[reached] = True
    return _worth_it(mesh, cut[:count], seen, (first, second), config)


def _worth_it(
    mesh: Mesh,
    cut: NDArray[np.bool_],
    seen: NDArray[np.float32],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    config: InsideConfig,
) -> NDArray[np.bool_]:
    """Of what the cut separates, the pieces that are hidden and leave no large hole."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first, second = pairs
    both = cut[first] & cut[second]
    ones = np.ones(int(both.sum()), np.int32)
    graph = coo_matrix((ones, (first[both], second[both])), shape=(len(cut),) * 2)
    _, labels = connected_components(graph, directed=False)
    gone = np.zeros_like(cut)
    open_before = {frozenset(loop) for loop in boundary_loops(mesh.faces)}
    for label in np.unique(labels[cut]):
        piece = np.flatnonzero(cut & (labels == label))
        if np.median(seen[piece]) > config.hidden:
            continue
        loops = boundary_loops(mesh.faces[torch.from_numpy(piece).to(mesh.faces.device)])
        new = [loop for loop in loops if frozenset(loop) not in open_before]
        if all(_area(mesh.vertices[loop]) <= config.opening for loop in new):
            gone[piece] = True
    return gone


def _neighbours(mesh: Mesh) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of faces with an edge in common, and its length."""
    faces = mesh.faces.cpu().numpy()
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    owners = np.tile(np.arange(len(faces)), 3)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, owners = edges[order], owners[order]
    same = (edges[1:] == edges[:-1]).all(axis=1)
    ends = mesh.vertices.detach().cpu().numpy()[edges[1:][same]]
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    return owners[:-1][same], owners[1:][same], lengths


def _area(loop: Float[Tensor, "n 3"]) -> float:
    """Of the flat part of what a closed line goes around."""
    around = loop - loop.mean(dim=0)
    return float(torch.linalg.cross(around, around.roll(-1, 0)).sum(dim=0).norm() / 2)


def _kept(mesh: Mesh, faces: Bool[Tensor, "f"]) -> Mesh:
    rows: Int[Tensor, "g 3"] = mesh.faces[faces]
    used, where = torch.unique(rows, return_inverse=True)

    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[used]

    return replace(
        mesh,
        vertices=cast(Tensor, of(mesh.vertices)),
        faces=where.view_as(rows),
        colors=of(mesh.colors),
        learned_normals=of(mesh.learned_normals),
    )
