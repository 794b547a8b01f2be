"""Random compositions of solids as coloured meshes: objects to draw that no library has."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from loci.data.mesh_files import Part, need_trimesh
from loci.data.mesh_normals import corner_normals
from loci.data.primitives import THINNEST, WALL, Solid, random_solids

SECTIONS, TUBE_SECTIONS, FINENESS = 24, 12, 2
TEXTURE = 32  # pixels of its side
MOTLEY = 0.3  # share of the materials that have a texture


def composed_parts(rng: np.random.Generator) -> list[Part]:
    """A random object of one to some dozen solids in up to three materials, z up."""
    solids = random_solids(rng)
    materials = [_material(rng) for _ in range(rng.integers(1, 4))]
    chosen = rng.integers(len(materials), size=len(solids))
    return [_part(solid, *materials[i]) for solid, i in zip(solids, chosen, strict=True)]


def _part(solid: Solid, color: np.ndarray, texture: np.ndarray | None) -> Part:
    unit = _unit_mesh(solid)
    place = np.asarray(unit.vertices, np.float64)
    vertices = (place * solid.half @ solid.turn.T + solid.middle).astype(np.float32)
    faces = np.asarray(unit.faces, np.int32)
    if np.linalg.det(solid.turn) < 0:
        faces = faces[:, ::-1]
    corners = faces.reshape(-1)
    uv = (place[:, :2] + place[:, 2:]) / 4 + 0.5
    return Part(
        vertices[corners],
        corner_normals(vertices, faces).reshape(-1, 3),
        uv.astype(np.float32)[corners],
        np.arange(len(corners), dtype=np.int32).reshape(-1, 3),
        color,
        texture,
    )


def _unit_mesh(solid: Solid) -> Any:
    """The surface of `Solid.holds` where the half sizes are 1."""
    create = need_trimesh().creation
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
        return _tray(max(WALL, THINNEST / solid.half.min() / 2))
    mesh = create.icosphere(FINENESS)
    if solid.kind == "cushion":
        mesh.vertices = mesh.vertices / (mesh.vertices**4).sum(axis=1, keepdims=True) ** 0.25
    return mesh


def _tray(wall: float) -> Any:
    """A floor and four walls."""
    trimesh = need_trimesh()
    wall = min(wall, 0.9)
    inner, middle = 2 - 2 * wall, 1 - wall / 2
    sides: list[tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]] = [
        (np.array([2, 2, wall]), np.array([0, 0, -middle])),
        *((np.array([wall, 2, 2]), np.array([s * middle, 0, 0])) for s in (-1, 1)),
        *((np.array([inner, wall, 2]), np.array([0, s * middle, 0])) for s in (-1, 1)),
    ]
    boxes = []
    for size, place in sides:
        box = trimesh.creation.box(size)
        box.apply_translation(place)
        boxes.append(box)
    return trimesh.util.concatenate(boxes)


def _material(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """A colour, and now and then patches of several."""
    color = _color(rng)
    if rng.random() >= MOTLEY:
        return color, None
    cells = int(rng.choice([2, 4, 8]))
    others = np.stack([_color(rng) for _ in range(cells * cells)]).reshape(cells, cells, 3)
    patches = np.clip(color + rng.uniform(0.2, 1) * (others - color), 0, 1)
    pixels = np.kron(patches, np.ones((TEXTURE // cells, TEXTURE // cells, 1)))
    opaque = np.ones((TEXTURE, TEXTURE, 1))
    texture = (255 * np.concatenate([pixels, opaque], axis=2)).round().astype(np.uint8)
    return np.ones(3, np.float32), texture


def _color(rng: np.random.Generator) -> np.ndarray:
    """Any, but more often dull than bright."""
    color = rng.random(3)
    return (color.mean() + rng.random() * (color - color.mean())).astype(np.float32)
