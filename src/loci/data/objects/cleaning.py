"""Normalising a mesh: centred, of unit size, without stray geometry; and what is left out."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from loci.data.objects.mesh_files import Submesh, triangles

LENGTH = 0.95  # of the longest side in the object's frame
PERCENTILES = (0.5, 99.5)
STRAY = 0.5  # distance from the percentile box, over its longest side, beyond which faces go
FLAT = (
    0.02  # least thickness over the longest side: rugs, bank notes and road markings are left out
)
FACES = (4, 400_000)
# Some fifty of them differ only in details too small for the renders.
WALL_FITTINGS = re.compile(r"\b(socket|plug|switch|rj45|thermostat)s?\b", re.IGNORECASE)


class UnusableObject(Exception):
    """The object is left out of the data set; the message says why."""


def check_name(name: str, opening: bool) -> None:
    """Raises UnusableObject for doors and windows, which all look alike, and for wall fittings."""
    if opening:
        raise UnusableObject("door or window")
    if WALL_FITTINGS.search(name):
        raise UnusableObject("wall socket, plug or switch")


def normalized(submeshes: Sequence[Submesh]) -> list[Submesh]:
    """The object centred in [-0.5, 0.5]^3, its longest side 0.95, without stray geometry.

    Raises:
        UnusableObject: for too few or too many triangles, a flat sheet, or no surface.
    """
    count = sum(len(submesh.faces) for submesh in submeshes)
    if not FACES[0] <= count <= FACES[1]:
        raise UnusableObject(f"{count} triangles, expected {FACES[0]} to {FACES[1]}")
    lowest, highest = _percentile_box(triangles(list(submeshes)))
    side = (highest - lowest).max()
    if not np.isfinite(side) or side <= 0:
        raise UnusableObject("no surface")
    margin = STRAY * side
    kept = [_within(submesh, lowest - margin, highest + margin) for submesh in submeshes]
    kept = [submesh for submesh in kept if len(submesh.faces)]
    corners = triangles(kept).reshape(-1, 3)
    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    sides = highest - lowest
    if sides.min() < FLAT * sides.max():
        raise UnusableObject(f"flat, thinner than {FLAT:.0%} of its length")
    scale = LENGTH / float(sides.max())
    return [submesh.moved(-(lowest + highest) / 2, scale) for submesh in kept]


def area_samples(
    corners: Float[np.ndarray, "f 3 3"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "n 3"]:
    """Points uniform over the area of triangles, `[count, 3]`."""
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


def _within(submesh: Submesh, lowest: np.ndarray, highest: np.ndarray) -> Submesh:
    """The triangles with a corner in the box, and the vertices they use."""
    inside = np.all((submesh.vertices >= lowest) & (submesh.vertices <= highest), axis=1)
    faces = submesh.faces[inside[submesh.faces].any(axis=1)]
    used, rows = np.unique(faces, return_inverse=True)
    return replace(
        submesh,
        vertices=submesh.vertices[used],
        normals=submesh.normals[used],
        uv=submesh.uv[used],
        faces=rows.reshape(-1, 3).astype(np.int32),
    )
