"""Synthetic objects: random compositions of simple solids, and stretched copies of real objects.

Compositions come as occupancy grids, made anew from their seed, or as coloured meshes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from loci.data.objects.cleaning import LENGTH, normalized
from loci.data.objects.mesh_files import Submesh, corner_normals
from loci.data.objects.sources import MeshSource

Kind = Literal["box", "ellipsoid", "cushion", "cylinder", "cone", "ring", "tray"]
KINDS = get_args(Kind)
SHARES = np.array([6, 2, 2, 4, 1, 1, 2]) / 18  # of each kind: furniture is mostly boxes
MIN_HALF = 0.04  # half size of any solid: none falls between two corners of the grid
WALL = 0.15  # thickness of a tray's walls over its smaller side


@dataclass(frozen=True)
class Solid:
    """One solid, with sizes from its centre (`half`) along the columns of `rotation`."""

    kind: Kind
    center: Float[np.ndarray, "3"]
    half: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))

    def contains(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether points are inside."""
        local = (points - self.center.astype(points.dtype)) @ self.rotation.astype(points.dtype)
        x, y, z = (local / self.half.astype(points.dtype)).T
        if self.kind == "ellipsoid":
            return x * x + y * y + z * z < 1
        if self.kind == "cushion":
            return x**4 + y**4 + z**4 < 1
        if self.kind == "cylinder":
            return (x * x + y * y < 1) & (np.abs(z) < 1)
        if self.kind == "cone":
            return (np.hypot(x, y) < 0.65 - 0.35 * z) & (np.abs(z) < 1)
        if self.kind == "ring":
            tube = min(0.5, self.half[2] / self.half[:2].max())
            return (np.hypot(x, y) - 1 + tube) ** 2 + (z * tube) ** 2 < tube**2
        box = np.maximum(np.maximum(np.abs(x), np.abs(y)), np.abs(z)) < 1
        if self.kind == "box":
            return box
        wall = max(WALL, MIN_HALF / self.half.min() / 2)
        return box & ~((np.abs(x) < 1 - wall) & (np.abs(y) < 1 - wall) & (z > wall - 1))

    def bounds(self) -> Float[np.ndarray, "2 3"]:
        reach = np.abs(self.rotation) @ self.half
        return np.stack([self.center - reach, self.center + reach])

    def mirrored(self, axis: int) -> "Solid":
        """Its mirror image: the other half of a symmetric object."""
        flip = np.ones(3)
        flip[axis] = -1
        return Solid(self.kind, self.center * flip, self.half, flip[:, None] * self.rotation)


def random_solids(rng: np.random.Generator) -> list[Solid]:
    """One to a dozen solids that touch, often symmetric, some on legs."""
    solids = [_solid(rng, np.zeros(3), 0.5)]
    for _ in range(rng.integers(0, 5)):
        host = solids[rng.integers(len(solids))]
        # Near the host's surface, along one of its axes.
        axis = host.rotation[:, rng.integers(3)] * rng.choice([-1, 1])
        surface = host.center + axis * (np.abs(host.rotation.T @ axis) @ host.half)
        solids.append(_solid(rng, surface + rng.normal(0, 0.08, 3), rng.uniform(0.15, 0.5)))
    if rng.random() < 0.3:
        solids += _legs(rng, solids[0])
    if rng.random() < 0.6:
        solids += [solid.mirrored(0) for solid in solids if abs(solid.center[0]) > 0.02]
    if rng.random() < 0.2:
        solids += [solid.mirrored(1) for solid in solids if abs(solid.center[1]) > 0.02]
    return solids


def solid_occupancy(solids: list[Solid], resolution: int = 32) -> Bool[np.ndarray, "r r r"]:
    """Voxels that the surface of a union touches, its longest side scaled to 0.95."""
    bounds = np.stack([solid.bounds() for solid in solids])
    lowest, highest = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    fine = 2 * resolution
    axis = np.linspace(-0.5, 0.5, fine + 1) * ((highest - lowest).max() / LENGTH)
    axes = (axis + (lowest + highest)[:, None] / 2).astype(np.float32)
    corners = np.zeros([fine + 1] * 3, bool)
    for solid, (low, high) in zip(solids, bounds, strict=True):
        ends = zip(axes, low, high, strict=True)
        near = tuple(slice(*np.searchsorted(places, pair)) for places, *pair in ends)
        places = (places[part] for places, part in zip(axes, near, strict=True))
        grid = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1)
        corners[near] |= solid.contains(grid.reshape(-1, 3)).reshape(grid.shape[:3])
    touched = _crossed(corners)
    blocks = touched.reshape(resolution, 2, resolution, 2, resolution, 2)
    return np.logical_or.reduce(blocks, axis=(1, 3, 5))


def primitive_occupancy(seed: int, resolution: int = 32) -> Bool[np.ndarray, "r r r"]:
    """The occupancy of a random shape; the same seed gives the same shape."""
    rng = np.random.default_rng([seed, 0x50])
    while True:
        grid = solid_occupancy(random_solids(rng), resolution)
        if grid.sum() >= resolution:  # not nearly empty
            return grid


def _solid(rng: np.random.Generator, center: np.ndarray, size: float) -> Solid:
    half = size * np.exp(rng.uniform(np.log(0.15), 0, 3))
    half = np.maximum(half, MIN_HALF)
    rotation = np.eye(3)[rng.permutation(3)]
    if rng.random() < 0.3:
        rotation = rotation @ _rotation(rng.uniform(0, np.pi), int(rng.integers(3)))
    return Solid(KINDS[rng.choice(len(KINDS), p=SHARES)], center, half, rotation)


def _legs(rng: np.random.Generator, top: Solid) -> list[Solid]:
    """Four legs below a solid's bounds."""
    (left, front, bottom), (right, back, _) = top.bounds()
    length, width = rng.uniform(0.15, 0.8), rng.uniform(0.5, 1.5) * MIN_HALF
    kind: Kind = "box" if rng.random() < 0.5 else "cylinder"
    half = np.array([width, width, length / 2])
    inset = width + rng.uniform(0, 0.2) * min(right - left, back - front)
    return [
        Solid(kind, np.array([x, y, bottom - length / 2 + 0.02]), half)
        for x in (left + inset, right - inset)
        for y in (front + inset, back - inset)
    ]


def _rotation(angle: float, axis: int) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation[first, first] = rotation[second, second] = cos
    rotation[first, second], rotation[second, first] = -sin, sin
    return rotation


def _crossed(corners: Bool[np.ndarray, "q q q"]) -> Bool[np.ndarray, "p p p"]:
    """Voxels with corners both inside and outside."""
    every, some = corners, corners
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        every = every[tuple(low)] & every[tuple(high)]
        some = some[tuple(low)] | some[tuple(high)]
    return some & ~every


SECTIONS, TUBE_SECTIONS, SUBDIVISIONS = 24, 12, 2
TEXTURE_SIDE = 32
TEXTURED = 0.3  # share of the materials


def composed_mesh(rng: np.random.Generator) -> list[Submesh]:
    """Random solids in up to three materials, z up."""
    solids = random_solids(rng)
    materials = [random_material(rng) for _ in range(rng.integers(1, 4))]
    chosen = rng.integers(len(materials), size=len(solids))
    return [_submesh(solid, *materials[i]) for solid, i in zip(solids, chosen, strict=True)]


def _submesh(solid: Solid, color: np.ndarray, texture: np.ndarray | None) -> Submesh:
    unit = _unit_mesh(solid)
    local = np.asarray(unit.vertices, np.float64)
    vertices = (local * solid.half @ solid.rotation.T + solid.center).astype(np.float32)
    faces = np.asarray(unit.faces, np.int32)
    if np.linalg.det(solid.rotation) < 0:
        faces = faces[:, ::-1]
    uv = (local[:, :2] + local[:, 2:]) / 4 + 0.5
    return _with_corners(vertices, faces, uv, color, texture)


def colored(mesh: Any, color: np.ndarray, texture: np.ndarray | None) -> Submesh:
    """A trimesh in one material; the texture is laid over its width and height."""
    vertices = np.asarray(mesh.vertices, np.float64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    places = (vertices - low) / np.maximum(high - low, 1e-9)
    uv = (places[:, :2] + places[:, 2:]) / 2
    faces = np.asarray(mesh.faces, np.int32)
    return _with_corners(vertices.astype(np.float32), faces, uv, color, texture)


def _with_corners(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    color: np.ndarray,
    texture: np.ndarray | None,
) -> Submesh:
    """Every corner of every face becomes a vertex, with a normal of its own."""
    corners = faces.reshape(-1)
    return Submesh(
        vertices[corners],
        corner_normals(vertices, faces).reshape(-1, 3),
        uv.astype(np.float32)[corners],
        np.arange(len(corners), dtype=np.int32).reshape(-1, 3),
        color,
        texture,
    )


def _unit_mesh(solid: Solid) -> Any:
    """The surface of `Solid.contains` where the half sizes are 1."""
    from trimesh import creation as create

    if solid.kind == "box":
        return create.box((2, 2, 2))
    if solid.kind == "cylinder":
        return create.cylinder(1, 2, sections=SECTIONS)
    if solid.kind == "cone":
        return create.revolve([[0, -1], [1, -1], [0.3, 1], [0, 1]], sections=SECTIONS)
    if solid.kind == "ring":
        tube = min(0.5, solid.half[2] / solid.half[:2].max())
        mesh = create.torus(1 - tube, tube, major_sections=SECTIONS, minor_sections=TUBE_SECTIONS)
        mesh.apply_scale((1, 1, 1 / tube))
        return mesh
    if solid.kind == "tray":
        return _tray(max(WALL, MIN_HALF / solid.half.min() / 2))
    mesh = create.icosphere(SUBDIVISIONS)
    if solid.kind == "cushion":
        mesh.vertices = mesh.vertices / (mesh.vertices**4).sum(axis=1, keepdims=True) ** 0.25
    return mesh


def _tray(wall: float) -> Any:
    """A floor and four walls."""
    import trimesh

    wall = min(wall, 0.9)
    inner, center = 2 - 2 * wall, 1 - wall / 2
    sides: list[tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]] = [
        (np.array([2, 2, wall]), np.array([0, 0, -center])),
        *((np.array([wall, 2, 2]), np.array([s * center, 0, 0])) for s in (-1, 1)),
        *((np.array([inner, wall, 2]), np.array([0, s * center, 0])) for s in (-1, 1)),
    ]
    boxes = []
    for size, offset in sides:
        box = trimesh.creation.box(size)
        box.apply_translation(offset)
        boxes.append(box)
    return trimesh.util.concatenate(boxes)


def random_material(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """A colour and, for some, a texture of random patches."""
    color = random_color(rng)
    if rng.random() >= TEXTURED:
        return color, None
    cells = int(rng.choice([2, 4, 8]))
    others = np.stack([random_color(rng) for _ in range(cells * cells)]).reshape(cells, cells, 3)
    patches = np.clip(color + rng.uniform(0.2, 1) * (others - color), 0, 1)
    pixels = np.kron(patches, np.ones((TEXTURE_SIDE // cells, TEXTURE_SIDE // cells, 1)))
    opaque = np.ones((TEXTURE_SIDE, TEXTURE_SIDE, 1))
    texture = (255 * np.concatenate([pixels, opaque], axis=2)).round().astype(np.uint8)
    return np.ones(3, np.float32), texture


def random_color(rng: np.random.Generator) -> np.ndarray:
    """Random, more often dull than saturated."""
    color = rng.random(3)
    return (color.mean() + rng.random() * (color - color.mean())).astype(np.float32)


MAX_STRETCH = 1.8  # of one side relative to another


def stretched(source: MeshSource, number: int, seed: int) -> MeshSource:
    """A source in other proportions: each side scaled by up to sqrt(`MAX_STRETCH`) either way."""
    name = f"{source.name}--{number}"
    return replace(source, name=name, read=partial(_read_stretched, source, name, seed))


def composed(number: int, seed: int) -> MeshSource:
    """A source of random solids (`composed_mesh`)."""
    name = f"composed-{number:04d}"
    return made_source(name, "composed", partial(_read_composed, name, seed))


def made_source(name: str, category: str, read: Callable[[], list[Submesh]]) -> MeshSource:
    """A source that is computed, not read from a file."""
    return MeshSource(
        name=name,
        title=name,
        category=category,
        origin="loci: random solids",
        licence="none",
        author="loci",
        size=None,
        opening=False,
        read=read,
    )


def _read_composed(name: str, seed: int) -> list[Submesh]:
    return composed_mesh(rng_of(name, seed))


def _read_stretched(source: MeshSource, name: str, seed: int) -> list[Submesh]:
    sides = np.exp(rng_of(name, seed).uniform(-0.5, 0.5, 3) * np.log(MAX_STRETCH))
    factors = sides.astype(np.float32)
    return [_scaled(submesh, factors) for submesh in normalized(source.read())]


def _scaled(submesh: Submesh, factors: np.ndarray) -> Submesh:
    normals = submesh.normals / factors
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return replace(
        submesh,
        vertices=submesh.vertices * factors,
        normals=np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0),
    )


def rng_of(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), 0x3F])
