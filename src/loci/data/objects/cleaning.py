"""From the mesh of a file to an object in its frame: centred, of one size, nothing stray."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from loci.data.objects.mesh_files import Submesh, triangles

LENGTH = 0.95  # of the longest side in the object's frame
PERCENTILES = (0.5, 99.5)
STRAY = 0.5  # of the longest side: what lies farther outside of the percentiles is stray
FLAT = 0.02  # of the longest side: what is thinner is a sheet (rugs, bank notes, road markings)
FACES = (4, 400_000)
# Fifty of them differ in little more than their holes, which no view here would show.
WALL_FITTINGS = re.compile(r"\b(socket|plug|switch|rj45|thermostat)s?\b", re.IGNORECASE)


class UnusableObject(Exception):
    """Why an object is left out."""


def check_name(name: str, opening: bool) -> None:
    """Raises UnusableObject for doors and windows, which all look alike, and for wall sockets."""
    if opening:
        raise UnusableObject("door or window")
    if WALL_FITTINGS.search(name):
        raise UnusableObject("wall socket, plug or switch")


def normalized(parts: Sequence[Submesh]) -> list[Submesh]:
    """The object in [-0.5, 0.5]^3, its longest side 0.95 long, without stray geometry.

    Raises:
        Unusable: for too few or too many triangles, a flat sheet, or when there is no surface.
    """
    count = sum(len(part.faces) for part in parts)
    if not FACES[0] <= count <= FACES[1]:
        raise UnusableObject(f"{count} triangles, expected {FACES[0]} to {FACES[1]}")
    lowest, highest = _percentile_box(triangles(list(parts)))
    side = (highest - lowest).max()
    if not np.isfinite(side) or side <= 0:
        raise UnusableObject("no surface")
    margin = STRAY * side
    kept = [_within(part, lowest - margin, highest + margin) for part in parts]
    kept = [part for part in kept if len(part.faces)]
    corners = triangles(kept).reshape(-1, 3)
    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    sides = highest - lowest
    if sides.min() < FLAT * sides.max():
        raise UnusableObject(f"flat, thinner than {FLAT:.0%} of its length")
    scale = LENGTH / float(sides.max())
    return [part.moved(-(lowest + highest) / 2, scale) for part in kept]


def area_samples(
    corners: Float[np.ndarray, "f 3 3"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "n 3"]:
    """Points drawn uniformly from the area of triangles."""
    a, b, c = np.moveaxis(corners.astype(np.float64), 1, 0)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not areas.sum() > 0:
        raise UnusableObject("no surface")
    chosen = rng.choice(len(areas), count, p=areas / areas.sum())
    u, v = rng.random((2, count, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]


def _percentile_box(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points = area_samples(corners, 20_000, np.random.default_rng(0))
    lowest, highest = np.percentile(points, PERCENTILES, axis=0)
    return lowest, highest


def _within(part: Submesh, lowest: np.ndarray, highest: np.ndarray) -> Submesh:
    """Without the triangles that have no corner in the box, and without unused vertices."""
    inside = np.all((part.vertices >= lowest) & (part.vertices <= highest), axis=1)
    faces = part.faces[inside[part.faces].any(axis=1)]
    used, rows = np.unique(faces, return_inverse=True)
    return replace(
        part,
        vertices=part.vertices[used],
        normals=part.normals[used],
        uv=part.uv[used],
        faces=rows.reshape(-1, 3).astype(np.int32),
    )
