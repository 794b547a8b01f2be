"""Normals for shading, from the shape alone: smooth over gentle bends, sharp over creases.

Those in files are not used: most libraries have none, and some point inward.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from loci.errors import LociError

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


LARGEST_TEXTURE = 512  # pixels of the longer side; views of 192 pixels never show more
INVISIBLE = 0.05  # a material of less opacity is not drawn
TO_Z_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)  # rows: y up, front +z


@dataclass(frozen=True)
class Submesh:
    """Triangles of one material.

    Attributes:
        normals: smoothed over gentle bends; not always outward.
        uv: texture coordinates, the origin at the lower left.
        color: RGB in [0, 1], sRGB; it multiplies the texture.
        texture: RGBA, first row on top, or None.
    """

    vertices: Float32[np.ndarray, "v 3"]
    normals: Float32[np.ndarray, "v 3"]
    uv: Float32[np.ndarray, "v 2"]
    faces: Int32[np.ndarray, "f 3"]
    color: Float32[np.ndarray, "3"]
    texture: UInt8[np.ndarray, "h w 4"] | None = None

    def turned(self, matrix: Float32[np.ndarray, "3 3"]) -> "Submesh":
        """Row vectors times a rotation."""
        return replace(self, vertices=self.vertices @ matrix, normals=self.normals @ matrix)

    def moved(self, shift: np.ndarray, scale: float) -> "Submesh":
        """`(vertices + shift) * scale`."""
        return replace(self, vertices=((self.vertices + shift) * scale).astype(np.float32))


@dataclass(frozen=True)
class _Beside:
    """What trimesh asks for the files that a mesh refers to."""

    get: Callable[[str], bytes]

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def namespaced(self, namespace: str) -> "_Beside":
        return self


def triangles(parts: list[Submesh]) -> Float32[np.ndarray, "f 3 3"]:
    """The corners of all triangles."""
    corners = [part.vertices[part.faces] for part in parts]
    return np.concatenate(corners) if corners else np.zeros((0, 3, 3), np.float32)


def read_mesh_file(path: Path) -> list[Submesh]:
    """The parts of an .obj or .glb file, z up (both are taken to be y up, front +z).

    Raises:
        LociError: when trimesh is missing or the file is damaged.
    """
    folder = path.parent

    def beside(name: str) -> bytes:
        return (folder / Path(name.replace("\\", "/")).name).read_bytes()

    return read_mesh(path.read_bytes(), path.suffix[1:].lower(), beside, str(path))


def read_mesh(
    content: bytes, kind: str, beside: Callable[[str], bytes], name: str
) -> list[Submesh]:
    """The parts of a mesh in memory, z up.

    Args:
        content: of the file.
        kind: "obj" or "glb".
        beside: gives the content of a file that this one refers to; raises KeyError or OSError
            when there is none (a material or texture that is missing is left out).
        name: for messages.

    Raises:
        LociError: when trimesh is missing or the mesh is damaged.
    """
    trimesh = need_trimesh()
    try:
        stream = io.StringIO(content.decode("latin-1")) if kind == "obj" else io.BytesIO(content)
        scene = trimesh.load_scene(stream, file_type=kind, resolver=_Beside(beside), process=False)
        meshes = [mesh for mesh in scene.dump() if hasattr(mesh, "faces") and len(mesh.faces)]
        parts = [_part(mesh) for mesh in meshes if _opacity(mesh) >= INVISIBLE]
    except Exception as error:  # the readers of trimesh raise whatever they meet
        message = f"{name}: damaged, expected a mesh ({type(error).__name__}: {error})"
        raise LociError(message) from error
    return [part.turned(TO_Z_UP) for part in parts if np.isfinite(part.vertices).all()]


def need_trimesh() -> ModuleType:
    """Raises LociError when trimesh is missing."""
    try:
        import trimesh
    except ImportError as error:
        raise LociError(
            "trimesh is missing, expected: pip install 'genius-loci[objects]'"
        ) from error
    return trimesh


def _part(mesh: Any) -> Submesh:
    count = len(mesh.vertices)
    material = getattr(mesh.visual, "material", None)
    texture = _texture(material)
    uv = getattr(mesh.visual, "uv", None)
    if uv is None or np.shape(uv) != (count, 2):
        uv, texture = np.zeros((count, 2)), None
    vertices = np.ascontiguousarray(mesh.vertices, np.float32)
    faces = np.ascontiguousarray(mesh.faces, np.int32)
    corners = faces.reshape(-1)  # each with a normal of its own
    return Submesh(
        vertices[corners],
        corner_normals(vertices, faces).reshape(-1, 3),
        np.nan_to_num(np.asarray(uv, np.float32))[corners],
        np.arange(len(corners), dtype=np.int32).reshape(-1, 3),
        _color(material, mesh.visual, textured=texture is not None),
        texture,
    )


def _texture(material: Any) -> np.ndarray | None:
    picture = getattr(material, "image", None)
    if picture is None:
        picture = getattr(material, "baseColorTexture", None)
    if picture is None:
        return None
    if picture.width * picture.height == 0:
        return None
    picture = picture.convert("RGBA")
    if max(picture.size) > LARGEST_TEXTURE:
        picture.thumbnail((LARGEST_TEXTURE, LARGEST_TEXTURE), Image.Resampling.BOX)
    return np.asarray(picture)


def _color(material: Any, visual: Any, textured: bool) -> np.ndarray:
    factor = getattr(material, "baseColorFactor", None)  # glTF: it multiplies the texture
    if factor is None and not textured:
        factor = getattr(material, "diffuse", None)
        if factor is None:
            factor = getattr(visual, "main_color", None)
    if factor is None:
        return np.ones(3, np.float32)
    factor = np.asarray(factor)
    whole = factor.dtype.kind in "iu"
    return (factor[:3] / (255 if whole else 1)).clip(0, 1).astype(np.float32)


def _opacity(mesh: Any) -> float:
    extra = getattr(getattr(mesh.visual, "material", None), "kwargs", None) or {}
    value = np.ravel(extra.get("d", 1.0))
    return float(value[0]) if value.size else 1.0
