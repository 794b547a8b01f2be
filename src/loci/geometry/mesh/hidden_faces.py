"""Removing the faces that cannot be seen from outside, by a minimum cut of the face graph.

Faces that no view sees are separated from those that many views see along the shortest edges, as
in the mesh post-processing of SAM 3D Objects.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from loci.errors import LociError, install_hint
from loci.geometry.camera import Camera
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import face_weights, nearest_faces
from loci.geometry.mesh.simplify import fill_holes

LENGTH_UNITS = 1e5
"""Edge lengths are multiplied by it: capacities of the cut are integers."""
INFINITE = 2**30


@dataclass(frozen=True)
class HiddenFacesConfig:
    """What counts as hidden. The thresholds are those of SAM 3D Objects, which renders 1000 views
    of 1024 pixels.

    Attributes:
        views: cameras, evenly on a sphere around the object.
        pixels: side of each view.
        distance: of the cameras from the origin.
        fov: of the cameras, in degrees.
        depth_slack: how far behind the nearest surface a face may lie and still be seen.
        outer: a face is an outer one if the share of views that see it reaches the upper quartile
            of its connected component, clipped to this range.
        hidden: a separated component is removed if its median face is visible in no more than
            this share of views,
        opening: and only if the largest hole left is at most this large, in square units.
    """

    views: int = 100
    pixels: int = 256
    distance: float = 2.0
    fov: float = 40.0
    depth_slack: float = 0.004
    outer: tuple[float, float] = (0.25, 0.5)
    hidden: float = 0.25
    opening: float = 0.04


@torch.no_grad()
def remove_hidden_faces(mesh: Mesh, config: HiddenFacesConfig | None = None) -> Mesh:
    """The mesh without hidden faces and the vertices only they use; holes left are filled.

    Args:
        mesh: in [-0.5, 0.5]^3 or near it, without a texture.
        config: what counts as hidden.

    Raises:
        LociError: when scipy is missing.
    """
    if find_spec("scipy") is None:
        raise LociError(f"removing hidden faces needs scipy: {install_hint('objects')}")
    config = config or HiddenFacesConfig()
    if not len(mesh.faces):
        return mesh
    hidden = hidden_faces(mesh, face_visibility(mesh, config).cpu().numpy(), config)
    # A surface that is hidden altogether is not inside anything.
    if not hidden.any() or hidden.all():
        return mesh
    return remove_faces(mesh, torch.from_numpy(hidden).to(mesh.faces.device))


def face_visibility(mesh: Mesh, config: HiddenFacesConfig) -> Float[Tensor, "f"]:
    """The share of views that see the centre of each face, in [0, 1]."""
    centers, normals = mesh.vertices[mesh.faces].mean(dim=1), mesh.face_normals
    visible = centers.new_zeros(len(centers))
    for camera in Camera.on_sphere(config.views, config.distance, config.fov):
        visible += _visible(mesh, centers, normals, camera.to(centers), config)
    return visible / config.views


def _visible(
    mesh: Mesh, centers: Tensor, normals: Tensor, camera: Camera, config: HiddenFacesConfig
) -> Bool[Tensor, "f"]:
    side = config.pixels
    screen = camera.project(mesh.vertices, side)
    nearest = nearest_faces(screen, mesh.faces, side, side)
    covered = nearest >= 0
    depth = screen.new_full((side, side), torch.inf)
    depth[covered] = face_weights(screen, mesh.faces, nearest, covered)[1]
    x, y, z = camera.project(centers, side).unbind(1)
    column, row = (v.floor().long().clamp(0, side - 1) for v in (x, y))
    cosine = ((camera.eye - centers) * normals).sum(1) / (camera.eye - centers).norm(dim=1)
    # The depth of an oblique face varies within a pixel.
    slack = config.depth_slack + z / camera.focal(side) / cosine.clamp(min=0.2)
    return (cosine > 0) & (z < depth[row, column] + slack)


class FaceGraph(NamedTuple):
    """Pairs of faces that share an edge, and the length of that edge, all `[p]`."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    lengths: NDArray[np.float32]


def hidden_faces(
    mesh: Mesh, visibility: NDArray[np.float32], config: HiddenFacesConfig
) -> NDArray[np.bool_]:
    """Which faces to remove, `[f]`, given the share of views that see each."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    graph = _face_graph(mesh)
    count = len(visibility)
    components, labels = _components(graph.first, graph.second, count)
    quartiles = [np.quantile(visibility[labels == label], 0.75) for label in range(components)]
    outer = visibility >= np.array(quartiles).clip(*config.outer)[labels]
    flat = (mesh.face_normals == 0).all(dim=1).cpu().numpy()
    inner = (visibility == 0) & ~flat  # a face without area is never visible
    if not inner.any():
        return inner
    source, sink = count, count + 1
    capacity = np.maximum(1, graph.lengths * LENGTH_UNITS).astype(np.int32)
    sources, sinks = np.flatnonzero(inner), np.flatnonzero(outer)
    rows = np.concatenate([graph.first, graph.second, np.full(len(sources), source), sinks])
    columns = np.concatenate([graph.second, graph.first, sources, np.full(len(sinks), sink)])
    infinite = np.full(len(sources) + len(sinks), INFINITE, np.int32)
    values = np.concatenate([capacity, capacity, infinite])
    network = coo_matrix((values, (rows, columns)), shape=(count + 2,) * 2, dtype=np.int32).tocsr()
    residual = network - maximum_flow(network, source, sink).flow
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    inside = np.zeros(count + 2, bool)
    inside[reached] = True
    return _removable(mesh, inside[:count], visibility, graph, config)


def _removable(
    mesh: Mesh,
    inside: NDArray[np.bool_],
    visibility: NDArray[np.float32],
    graph: FaceGraph,
    config: HiddenFacesConfig,
) -> NDArray[np.bool_]:
    """The separated components that are hidden and leave no large hole."""
    both = inside[graph.first] & inside[graph.second]
    _, labels = _components(graph.first[both], graph.second[both], len(inside))
    removable = np.zeros_like(inside)
    for label in np.unique(labels[inside]):
        component = inside & (labels == label)
        if np.median(visibility[component]) > config.hidden:
            continue
        if max(_hole_areas(mesh, component), default=0.0) <= config.opening:
            removable |= component
    return removable


def _hole_areas(mesh: Mesh, removed: NDArray[np.bool_]) -> list[float]:
    """Areas of the holes that removed faces leave: of each connected boundary, filled by a fan."""
    boundary = _boundary(mesh.faces.cpu().numpy(), removed)
    if not len(boundary):
        return []
    vertices = mesh.vertices.detach().cpu().numpy()
    _, labels = _components(boundary[:, 0], boundary[:, 1], len(vertices))
    areas = []
    for label in np.unique(labels[boundary[:, 0]]):
        edges = vertices[boundary[labels[boundary[:, 0]] == label]]
        a, b = (edges - edges.mean(axis=(0, 1))).swapaxes(0, 1)
        areas.append(float(np.linalg.norm(np.cross(a, b), axis=1).sum() / 2))
    return areas


def _components(first: NDArray, second: NDArray, count: int) -> tuple[int, NDArray[np.int32]]:
    """How many connected components a graph of `count` nodes has, and that of each node."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(first), np.int32)
    graph = coo_matrix((ones, (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)


def _boundary(faces: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Edges between chosen faces and others, as vertices, `[k, 2]`."""
    edges, owners = _edges(faces)
    unique, which = np.unique(edges, axis=0, return_inverse=True)
    sides = np.zeros((len(unique), 2), bool)
    sides[which.ravel(), chosen[owners].astype(int)] = True
    return unique[sides.all(axis=1)]


def _edges(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Three edges a face, the lower vertex first, and the face of each."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.sort(edges, axis=1), np.tile(np.arange(len(faces)), 3)


def _face_graph(mesh: Mesh) -> FaceGraph:
    edges, owners = _edges(mesh.faces.cpu().numpy())
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, owners = edges[order], owners[order]
    same = (edges[1:] == edges[:-1]).all(axis=1)
    ends = mesh.vertices.detach().cpu().numpy()[edges[1:][same]]
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    return FaceGraph(owners[:-1][same], owners[1:][same], lengths)


def remove_faces(mesh: Mesh, removed: Bool[Tensor, "f"]) -> Mesh:
    """The other faces and their vertices; the holes that this leaves are filled."""
    faces = mesh.faces[~removed]
    used, renumbered = torch.unique(faces, return_inverse=True)
    boundary = _boundary(mesh.faces.cpu().numpy(), removed.cpu().numpy())
    opened = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    opened[torch.from_numpy(boundary.ravel())] = True
    normals = mesh.learned_normals
    rest = replace(
        mesh,
        vertices=mesh.vertices[used],
        faces=renumbered.view_as(faces),
        colors=None if mesh.colors is None else mesh.colors[used],
        learned_normals=None if normals is None else normals[used],
    )
    return fill_holes(rest, 0, opened[used.cpu()])
