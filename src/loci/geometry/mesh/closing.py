"""Makes a mesh watertight: every edge is shared by two consistently oriented faces.

Three steps, each of which leaves a mesh that needs none as it is: faces without three different
vertices and repeated faces go; vertices where several sheets touch are doubled, one for each sheet;
the holes that are left are filled.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.simplify import fill_holes

APART = 0.02
"""How far a doubled vertex moves into its own sheet, as a share of the way to its neighbours."""

Rows = NDArray[np.int64]


class HalfEdges(NamedTuple):
    """Three for each face, `[3 f]`: the edge of its corner k leads from `start` to `end`."""

    start: Rows
    end: Rows


@torch.no_grad()
def closed_mesh(mesh: Mesh) -> Mesh:
    """The mesh without border, with two faces at every edge and one sheet at every vertex.

    Faces keep their direction; a mesh whose neighbouring faces disagree comes apart there, and each
    part is closed on its own.

    Args:
        mesh: without a texture.
    """
    faces = _proper(mesh.faces.cpu().numpy())
    cut = _cut(replace(mesh, faces=torch.from_numpy(faces).to(mesh.faces.device)))
    # A vertex whose sheets were joined by an edge that is split now may have two of them.
    return fill_holes(_cut(_split(cut)), len(faces) * 3)


def is_closed(mesh: Mesh) -> bool:
    """Whether every edge has one face in each direction, and every vertex one sheet."""
    faces = mesh.faces.cpu().numpy()
    half = _half_edges(faces)
    partner = _partners(half, mesh.vertices.detach().cpu().numpy(), faces)
    edges = np.sort(np.stack([half.start, half.end], axis=1), axis=1)
    twice = np.unique(edges, axis=0, return_counts=True)[1] == 2
    sheets = np.unique(_sheets(half, partner, len(faces)))
    return bool((partner >= 0).all() and twice.all() and len(sheets) == len(np.unique(faces)))


def _proper(faces: Rows) -> Rows:
    """Without faces that touch a vertex twice, and each face once."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    first = faces.argmin(axis=1)
    turned = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)
    _, rows = np.unique(turned, axis=0, return_index=True)
    return faces[np.sort(rows)]


def _half_edges(faces: Rows) -> HalfEdges:
    return HalfEdges(faces.ravel(), np.roll(faces, -1, axis=1).ravel())


def _partners(half: HalfEdges, vertices: NDArray[np.float32], faces: Rows) -> Rows:
    """The opposite half-edge of each, or -1. Where several sheets meet in one edge, faces with
    the solid between them are partners."""
    start, end = half
    low, high = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((start, high, low))
    new = np.ones(len(order), bool)
    new[1:] = (low[order][1:] != low[order][:-1]) | (high[order][1:] != high[order][:-1])
    group = new.cumsum() - 1
    firsts, counts = np.flatnonzero(new), np.bincount(group, minlength=1)
    partner = np.full(len(order), -1)
    pairs = firsts[counts == 2]
    a, b = order[pairs], order[pairs + 1]
    opposite = start[a] == end[b]
    partner[a[opposite]], partner[b[opposite]] = b[opposite], a[opposite]
    for first, count in zip(firsts[counts > 2], counts[counts > 2], strict=True):
        for one, other in _around(order[first : first + count], half, vertices, faces):
            partner[one], partner[other] = other, one
    return partner


def _around(
    edges: Rows, half: HalfEdges, vertices: NDArray[np.float32], faces: Rows
) -> list[tuple[int, int]]:
    """Pairs of half-edges of one edge, by the angles of their faces around it."""
    a, b = half.start[edges[0]], half.end[edges[0]]
    axis = vertices[b] - vertices[a]
    axis = axis / max(float(np.linalg.norm(axis)), 1e-12)
    opposite = faces.ravel()[edges // 3 * 3 + (edges % 3 + 2) % 3]
    out = vertices[opposite] - vertices[a]
    out = out - (out @ axis)[:, None] * axis
    across = np.cross(axis, out[0])
    angle = np.arctan2(out @ across, out @ out[0]) % (2 * np.pi)
    around = edges[np.argsort(angle, kind="stable")].tolist()
    # Going counter-clockwise about the axis, the solid lies behind a face whose edge runs against
    # the axis and before one whose edge runs along it: the two are matched like brackets.
    pairs, opened, done = [], [], set()
    for edge in [*around, *around]:
        if edge in done:
            continue
        if half.start[edge] != a:
            opened += [] if edge in opened else [edge]
        elif opened:
            pairs.append((edge, opened.pop()))
            done.update(pairs[-1])
    return pairs


def _sheets(half: HalfEdges, partner: Rows, faces: int) -> Rows:
    """For each corner of each face the lowest corner of its sheet around its vertex, `[3 f]`."""
    sheet = np.arange(3 * faces)
    edge = np.flatnonzero(partner >= 0)
    other = partner[edge]
    # The edge starts where its partner ends: at the partner's next corner.
    following = other // 3 * 3 + (other % 3 + 1) % 3
    while True:
        lowest = sheet.copy()
        np.minimum.at(lowest, edge, sheet[following])
        np.minimum.at(lowest, following, sheet[edge])
        lowest = lowest[lowest]
        if (lowest == sheet).all():
            return sheet
        sheet = lowest


def _cut(mesh: Mesh) -> Mesh:
    """With a vertex for each sheet."""
    faces, vertices = mesh.faces.cpu().numpy(), mesh.vertices.detach().cpu().numpy()
    half = _half_edges(faces)
    sheet = _sheets(half, _partners(half, vertices, faces), len(faces))
    corners, which = np.unique(sheet, return_inverse=True)
    source = half.start[corners]
    if len(corners) == len(vertices) and len(np.unique(source)) == len(source):
        return mesh
    order = np.argsort(source, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    source, renumbered = source[order], rank[which.ravel()].reshape(-1, 3)
    moved = _apart(vertices[source], renumbered, np.bincount(source)[source] > 1)
    rows = torch.from_numpy(source).to(mesh.faces.device)

    def chosen(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    return replace(
        mesh,
        vertices=torch.from_numpy(moved).to(mesh.vertices),
        faces=torch.from_numpy(renumbered).to(mesh.faces.device),
        colors=chosen(mesh.colors),
        learned_normals=chosen(mesh.learned_normals),
        normals=chosen(mesh.normals),
    )


def _split(mesh: Mesh) -> Mesh:
    """With edges that one sheet runs through twice split at their middle, but for the first pair
    of faces."""
    while True:
        faces, vertices = mesh.faces.cpu().numpy(), mesh.vertices.detach().cpu().numpy()
        half = _half_edges(faces)
        partner = _partners(half, vertices, faces)
        edges = np.sort(np.stack([half.start, half.end], axis=1), axis=1)
        _, group, counts = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
        group = group.ravel()
        forward = np.flatnonzero((counts[group] > 2) & (partner >= 0) & (half.start < half.end))
        _, firsts = np.unique(group[forward], return_index=True)
        crowded = np.delete(forward, firsts)
        if not len(crowded):
            return mesh
        busy, chosen = set(), []
        for one in crowded.tolist():
            pair = {one // 3, int(partner[one]) // 3}
            if not busy & pair:
                busy |= pair
                chosen.append(one)
        mesh = _with_middles(mesh, np.array(chosen), partner)


def _with_middles(mesh: Mesh, edges: Rows, partner: Rows) -> Mesh:
    """With a vertex in the middle of each of these edges, between their two faces only."""
    faces, half = mesh.faces.cpu().numpy(), _half_edges(mesh.faces.cpu().numpy())
    count, more = len(mesh.vertices), []
    faces = faces.copy()
    for number, one in enumerate(edges.tolist()):
        for edge in (one, int(partner[one])):
            face, corner = divmod(edge, 3)
            split = faces[face].copy()
            split[corner] = count + number
            more.append(split)
            faces[face, (corner + 1) % 3] = count + number
    ends = torch.from_numpy(np.stack([half.start[edges], half.end[edges]]))
    ends = ends.to(mesh.faces.device)
    around = np.stack([faces[edges // 3], faces[partner[edges] // 3]]).reshape(2, -1, 3)
    inner = torch.from_numpy(around).to(mesh.faces.device).clamp(max=count - 1)

    def with_middles(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return torch.cat([values, values[ends].mean(0)])

    vertices = with_middles(mesh.vertices)
    assert vertices is not None
    # Into the faces, so that the two sheets touch no longer.
    vertices[count:] += APART * (mesh.vertices[inner].mean((0, 2)) - vertices[count:])
    return replace(
        mesh,
        vertices=vertices,
        faces=torch.from_numpy(np.concatenate([faces, np.stack(more)])).to(mesh.faces.device),
        colors=with_middles(mesh.colors),
        learned_normals=with_middles(mesh.learned_normals),
    )


def _apart(
    vertices: NDArray[np.float32], faces: Rows, doubled: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Doubled vertices a little towards their neighbours, so that sheets touch no longer."""
    total, count = np.zeros_like(vertices), np.zeros(len(vertices), np.float32)
    for corner in faces.T:
        np.add.at(total, corner, vertices[faces].mean(axis=1))
        np.add.at(count, corner, 1)
    mean = total / np.maximum(count, 1)[:, None]
    return np.where(doubled[:, None], vertices + APART * (mean - vertices), vertices)
