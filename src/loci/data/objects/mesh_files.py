"""Reading OBJ, GLB and glTF files by trimesh, with shading normals computed from the shape.

Normals in files are not used: most libraries have none, and some point inward.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from loci.errors import LociError
from loci.geometry.io import linear_to_srgb

CREASE = 0.77  # cosine of the angle between faces, about 40 degrees, from which an edge is sharp
MAX_CORNERS = 48  # at one vertex whose normals are smoothed: the cost is quadratic


def corner_normals(
    vertices: Float32[np.ndarray, "v 3"], faces: Int32[np.ndarray, "f 3"]
) -> Float32[np.ndarray, "f 3 3"]:
    """Unit normals of each corner of each face: the area-weighted mean over the faces that meet
    there at no sharp edge. 0 where a triangle has no area."""
    a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
    areas = np.cross(b - a, c - a)
    flat = _unit(areas)
    places = np.unique(vertices, axis=0, return_inverse=True)[1].reshape(-1)[faces].reshape(-1)
    order = np.argsort(places, kind="stable")
    counts = np.bincount(places)
    each = counts[places[order]]
    start = np.repeat(np.cumsum(counts) - counts, counts)
    each = np.where(each > MAX_CORNERS, 0, each)  # they keep the face's own
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


MAX_TEXTURE = 512  # pixels of the longer side; views of 192 pixels never show more
DRACO = b'"KHR_draco_mesh_compression"'
INVISIBLE = 0.05  # a material of less opacity is not drawn
TO_Z_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)  # rows: y up, front +z


@dataclass(frozen=True)
class Submesh:
    """Triangles of one material.

    Attributes:
        normals: smoothed over gentle bends; not always outward.
        uv: texture coordinates, the origin at the lower left.
        color: sRGB in [0, 1]; multiplies the texture.
        texture: RGBA, first row on top, or None.
    """

    vertices: Float32[np.ndarray, "v 3"]
    normals: Float32[np.ndarray, "v 3"]
    uv: Float32[np.ndarray, "v 2"]
    faces: Int32[np.ndarray, "f 3"]
    color: Float32[np.ndarray, "3"]
    texture: UInt8[np.ndarray, "h w 4"] | None = None

    def rotated(self, matrix: Float32[np.ndarray, "3 3"]) -> "Submesh":
        """Row vectors times a rotation matrix."""
        return replace(self, vertices=self.vertices @ matrix, normals=self.normals @ matrix)

    def moved(self, shift: np.ndarray, scale: float) -> "Submesh":
        """`(vertices + shift) * scale`."""
        return replace(self, vertices=((self.vertices + shift) * scale).astype(np.float32))


@dataclass(frozen=True)
class _Resolver:
    """Gives trimesh the files that a mesh refers to."""

    get: Callable[[str], bytes]

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def namespaced(self, namespace: str) -> "_Resolver":
        return self


def triangles(submeshes: list[Submesh]) -> Float32[np.ndarray, "f 3 3"]:
    """The corners of all triangles."""
    corners = [submesh.vertices[submesh.faces] for submesh in submeshes]
    return np.concatenate(corners) if corners else np.zeros((0, 3, 3), np.float32)


def read_mesh_file(path: Path) -> list[Submesh]:
    """The submeshes of an .obj, .glb or .gltf file, z up (both are taken to be y up, front +z).

    Raises:
        LociError: when the file is damaged.
    """
    folder = path.parent

    def read_file(name: str) -> bytes:
        return (folder / Path(name.replace("\\", "/")).name).read_bytes()

    return read_mesh(path.read_bytes(), path.suffix[1:].lower(), read_file, str(path))


def read_mesh(
    content: bytes, kind: str, read_file: Callable[[str], bytes], name: str
) -> list[Submesh]:
    """The submeshes of a mesh in memory, z up.

    Args:
        content: of the file.
        kind: "obj", "glb" or "gltf".
        read_file: gives the content of a file that this one refers to; raises KeyError or OSError
            when there is none (a missing material or texture is left out).
        name: for messages.

    Raises:
        LociError: when the mesh is damaged, or compressed by Draco without the package DracoPy.
    """
    import trimesh

    if kind != "obj" and DRACO in content and find_spec("DracoPy") is None:
        raise LociError(f"{name}: Draco-compressed; run: pip install DracoPy")
    stream = io.StringIO(content.decode("latin-1")) if kind == "obj" else io.BytesIO(content)
    resolver: Any = _Resolver(read_file)
    try:
        scene = trimesh.load_scene(stream, file_type=kind, resolver=resolver, process=False)
        meshes = [mesh for mesh in scene.dump() if isinstance(mesh, trimesh.Trimesh)]
        visible = [mesh for mesh in meshes if len(mesh.faces) and _opacity(mesh) >= INVISIBLE]
        submeshes = [_submesh(mesh, linear=kind != "obj") for mesh in visible]
    except Exception as error:  # the readers of trimesh raise whatever they meet
        message = f"{name}: damaged, expected a mesh ({type(error).__name__}: {error})"
        raise LociError(message) from error
    finite = [submesh for submesh in submeshes if np.isfinite(submesh.vertices).all()]
    return [submesh.rotated(TO_Z_UP) for submesh in finite]


def _submesh(mesh: Any, linear: bool) -> Submesh:
    """`linear`: whether the file's colours are linear, as those of glTF, and not sRGB."""
    count = len(mesh.vertices)
    material = getattr(mesh.visual, "material", None)
    texture = _texture(material)
    uv = getattr(mesh.visual, "uv", None)
    if uv is None or np.shape(uv) != (count, 2):
        uv, texture = np.zeros((count, 2)), None
    vertices = np.ascontiguousarray(mesh.vertices, np.float32)
    faces = np.ascontiguousarray(mesh.faces, np.int32)
    corners = faces.reshape(-1)  # each with a normal of its own
    color = _color(material, mesh.visual, textured=texture is not None)
    return Submesh(
        vertices[corners],
        corner_normals(vertices, faces).reshape(-1, 3),
        np.nan_to_num(np.asarray(uv, np.float32))[corners],
        np.arange(len(corners), dtype=np.int32).reshape(-1, 3),
        linear_to_srgb(color).astype(np.float32) if linear else color,
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
    if max(picture.size) > MAX_TEXTURE:
        picture.thumbnail((MAX_TEXTURE, MAX_TEXTURE), Image.Resampling.BOX)
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
