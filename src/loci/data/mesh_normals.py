"""Normals for shading, from the shape alone: smooth over gentle bends, sharp over creases.

Those in files are not used: most libraries have none, and some point inward.
"""

import numpy as np
from jaxtyping import Float32, Int32

CREASE = 0.77  # cosine of the bend, about 40 degrees, from which an edge is sharp
CROWDED = 48  # corners at one place; the tip of a cone, where all pairs would be too many


def corner_normals(
    vertices: Float32[np.ndarray, "v 3"], faces: Int32[np.ndarray, "f 3"]
) -> Float32[np.ndarray, "f 3 3"]:
    """A unit normal for each corner of each face: the mean over the faces that meet there and
    bend little from it, by their areas. 0 where a triangle has no area."""
    a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
    areas = np.cross(b - a, c - a)
    flat = _unit(areas)
    places = np.unique(vertices, axis=0, return_inverse=True)[1].reshape(-1)[faces].reshape(-1)
    order = np.argsort(places, kind="stable")
    counts = np.bincount(places)
    each = counts[places[order]]
    start = np.repeat(np.cumsum(counts) - counts, counts)
    each = np.where(each > CROWDED, 0, each)  # they keep the face's own
    which = np.repeat(np.arange(len(order)), each)
    within = np.arange(len(which)) - np.repeat(np.cumsum(each) - each, each)
    one, other = order[which] // 3, order[start[which] + within] // 3
    gentle = (flat[one] * flat[other]).sum(axis=1) > CREASE
    total = areas[order // 3]
    for axis in range(3):
        sums = np.bincount(which[gentle], areas[other[gentle], axis], minlength=len(order))
        total[:, axis] = np.where(each > 0, sums, total[:, axis])
    normals = np.empty_like(total)
    normals[order] = _unit(total)
    return normals.reshape(-1, 3, 3).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
