"""Fewer faces for the same surface."""

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
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import face_weights, nearest_faces

EXTRA = "pip install 'genius-loci[objects]'"


def need_decimation() -> None:
    """Raises LociError when a package that spares faces is missing."""
    names = {"fast_simplification": "fast-simplification", "scipy": "scipy"}
    missing = [name for module, name in names.items() if find_spec(module) is None]
    if missing:
        raise LociError(f"fewer faces need {' and '.join(missing)}: {EXTRA}")


def decimated(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with about so many faces, by quadric errors (SAM 3D Objects, 12); what is smaller
    stays as it is. Colours are those of the nearest vertex before; decoded normals are dropped.

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
    rows = mesh.faces.cpu().numpy().astype(np.int32)
    places, kept = fast_simplification.simplify(vertices, rows, target_count=faces)[:2]
    _, nearest = KDTree(vertices).query(places)
    colors = None if mesh.colors is None else mesh.colors[torch.from_numpy(nearest)]
    device = mesh.vertices.device
    return Mesh(
        torch.from_numpy(places.astype(np.float32)).to(device),
        torch.from_numpy(kept.astype(np.int64)).to(device),
        colors,
    )


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
    """The mesh without faces that are inside, the holes of that closed; vertices that no face uses
    any more go too.

    Args:
        mesh: in [-0.5, 0.5]^3 or near it, without a texture.
        config: what counts as inside.

    Raises:
        LociError: when scipy is missing.
    """
    if find_spec("scipy") is None:
        raise LociError(f"cutting off what is inside needs scipy: {EXTRA}")
    config = config or InsideConfig()
    if not len(mesh.faces):
        return mesh
    gone = inner_faces(mesh, visibility(mesh, config).cpu().numpy(), config)
    # A surface of which nothing is seen is not inside of anything.
    if not gone.any() or gone.all():
        return mesh
    return _without(mesh, torch.from_numpy(gone).to(mesh.faces.device))


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
    flat = (mesh.face_normals == 0).all(dim=1).cpu().numpy()
    inner = (seen == 0) & ~flat  # What has no area is seen from nowhere, wherever it is
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
    for label in np.unique(labels[cut]):
        piece = cut & (labels == label)
        if np.median(seen[piece]) > config.hidden:
            continue
        if max(_openings(mesh, piece), default=0.0) <= config.opening:
            gone |= piece
    return gone


def _openings(mesh: Mesh, piece: NDArray[np.bool_]) -> list[float]:
    """The areas of the holes that a piece leaves: of all rims that hang together, fanned from their
    middle."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rim = _rim(mesh.faces.cpu().numpy(), piece)
    if not len(rim):
        return []
    places = mesh.vertices.detach().cpu().numpy()
    ends = (np.ones(len(rim), np.int32), (rim[:, 0], rim[:, 1]))
    graph = coo_matrix(ends, shape=(len(places),) * 2)
    _, labels = connected_components(graph, directed=False)
    areas = []
    for label in np.unique(labels[rim[:, 0]]):
        edges = places[rim[labels[rim[:, 0]] == label]]
        a, b = (edges - edges.mean(axis=(0, 1))).swapaxes(0, 1)
        areas.append(float(np.linalg.norm(np.cross(a, b), axis=1).sum() / 2))
    return areas


def _rim(faces: NDArray[np.int64], piece: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Edges between faces of a piece and others, as vertices, `[k, 2]`."""
    edges, owners = _edges(faces)
    kinds, which = np.unique(edges, axis=0, return_inverse=True)
    within = np.zeros((len(kinds), 2), bool)
    within[which.ravel(), piece[owners].astype(int)] = True
    return kinds[within.all(axis=1)]


def _edges(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Three for every face, the lower vertex first, and whose they are."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.sort(edges, axis=1), np.tile(np.arange(len(faces)), 3)


def _neighbours(mesh: Mesh) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of faces with an edge in common, and its length."""
    edges, owners = _edges(mesh.faces.cpu().numpy())
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, owners = edges[order], owners[order]
    same = (edges[1:] == edges[:-1]).all(axis=1)
    ends = mesh.vertices.detach().cpu().numpy()[edges[1:][same]]
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    return owners[:-1][same], owners[1:][same], lengths


def _without(mesh: Mesh, gone: Bool[Tensor, "f"]) -> Mesh:
    """What is left, closed where something went."""
    rows: Int[Tensor, "g 3"] = mesh.faces[~gone]
    used, where = torch.unique(rows, return_inverse=True)
    rim = _rim(mesh.faces.cpu().numpy(), gone.cpu().numpy())
    opened = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    opened[torch.from_numpy(rim.ravel())] = True

    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[used]

    left = replace(
        mesh,
        vertices=cast(Tensor, of(mesh.vertices)),
        faces=where.view_as(rows),
        colors=of(mesh.colors),
        learned_normals=of(mesh.learned_normals),
    )
    return closed(left, 0, opened[used.cpu()])
