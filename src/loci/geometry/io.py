"""PLY files of splats, as every Gaussian viewer reads them."""

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from loci.errors import LociError
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh, Texture
from loci.io.files import write_whole


def gaussian_columns(gaussians: Gaussians) -> dict[str, Float[Tensor, "n"]]:
    """What a splat file stores, before activation, by column name in file order.

    Opacity as its logit, scale as its logarithm, rotation w, x, y, z of any length.
    """
    zeros = torch.zeros_like(gaussians.positions)
    columns: dict[str, Tensor] = {}
    for names, values in (
        (("x", "y", "z"), gaussians.positions),
        (("nx", "ny", "nz"), zeros),
        (("f_dc_0", "f_dc_1", "f_dc_2"), gaussians.harmonics),
        (("opacity",), gaussians.opacity_logits[:, None]),
        (("scale_0", "scale_1", "scale_2"), gaussians.scales.log()),
        (("rot_0", "rot_1", "rot_2", "rot_3"), gaussians.quaternions),
    ):
        columns |= zip(names, values.unbind(1), strict=True)
    return columns


def write_splat(path: Path | str, gaussians: Gaussians) -> None:
    """Writes a binary PLY of Gaussians, all or nothing. Raises LociError if it cannot."""
    columns = {name: _numpy(column) for name, column in gaussian_columns(gaussians).items()}
    vertices = np.empty(len(gaussians), dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column
    properties = [f"property float {name}" for name in columns]
    form = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header = "\n".join([*form, *properties, "end_header\n"])
    write_whole(Path(path), header.encode() + vertices.tobytes())


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963  # what a buffer view is for
LINEAR, CLAMP = 9729, 33071  # how a texture is read
MATERIAL: dict[str, Any] = {
    "doubleSided": True,
    "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
}


def to_gltf_frame(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The object's frame (z up) to glTF's (y up): (x, y, z) -> (x, z, -y)."""
    x, y, z = points.unbind(1)
    return torch.stack([x, z, -y], dim=1)


def from_gltf_frame(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The inverse: what a pose is applied to."""
    x, y, z = points.unbind(1)
    return torch.stack([x, -z, y], dim=1)


def write_glb(path: Path | str, meshes: Mapping[str, Mesh]) -> None:
    """Writes a scene with one node for each named mesh, all or nothing.

    A mesh with a texture has no vertex colours in the file: viewers would multiply the two. Vertex
    colours are taken as sRGB and stored linear, as glTF wants them: stored as they are, they would
    look washed out.

    Raises:
        LociError: for no mesh, a mesh without faces or with vertices that are not finite, or a
            file that cannot be written.
    """
    path = Path(path)
    if not meshes:
        raise LociError(f"{path}: expected at least one mesh to write")
    scene = _Scene()
    for name, mesh in meshes.items():
        if len(mesh.faces) == 0:
            raise LociError(f"{path}: {name} has no faces, expected a surface")
        if not bool(mesh.vertices.isfinite().all()):
            raise LociError(f"{path}: {name} has vertices that are not finite")
        scene.add(name, mesh)
    write_whole(path, scene.content())


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1] without their gamma."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


class _Scene:
    """Arrays put one behind the other, and the JSON that says what they are."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict] = []
        self.accessors: list[dict] = []
        self.meshes: list[dict] = []
        self.materials: list[dict] = [MATERIAL]
        self.images: list[dict] = []

    def add(self, name: str, mesh: Mesh) -> None:
        places = _numpy_glb(to_gltf_frame(mesh.vertices))
        bounds = {"min": places.min(0).tolist(), "max": places.max(0).tolist()}
        normals = _numpy_glb(to_gltf_frame(mesh.vertex_normals))
        normals[np.linalg.norm(normals, axis=1) < 0.5] = (0, 1, 0)  # a vertex without a surface
        attributes = {
            "POSITION": self._array(places, FLOAT, VERTICES, **bounds),
            "NORMAL": self._array(normals, FLOAT, VERTICES),
        }
        material = 0
        if mesh.texture is not None:
            attributes["TEXCOORD_0"] = self._array(_numpy_glb(mesh.texture.places), FLOAT, VERTICES)
            material = self._painted(mesh.texture)
        elif mesh.colors is not None:
            colors = np.full((len(places), 4), 65535, dtype="<u2")
            colors[:, :3] = np.round(linear(_numpy_glb(mesh.colors).clip(0, 1)) * 65535)
            attributes["COLOR_0"] = self._array(colors, UNSIGNED_SHORT, VERTICES, normalized=True)
        rows = mesh.faces.cpu().numpy().astype("<u4").reshape(-1, 1)
        indices = self._array(rows, UNSIGNED_INT, INDICES)
        primitive = {"attributes": attributes, "indices": indices, "material": material}
        self.meshes.append({"name": name, "primitives": [primitive]})

    def content(self) -> bytes:
        nodes = [{"name": mesh["name"], "mesh": i} for i, mesh in enumerate(self.meshes)]
        described = {
            "asset": {"version": "2.0", "generator": "loci"},
            "scene": 0,
            "scenes": [{"nodes": list(range(len(nodes)))}],
            "nodes": nodes,
            "meshes": self.meshes,
            "materials": self.materials,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.data)}],
        }
        if self.images:
            described |= {
                "images": self.images,
                "textures": [{"source": i, "sampler": 0} for i in range(len(self.images))],
                "samplers": [{"magFilter": LINEAR, "wrapS": CLAMP, "wrapT": CLAMP}],
            }
        text = json.dumps(described).encode()
        chunks = _chunk(b"JSON", text, b" ") + _chunk(b"BIN\0", bytes(self.data), b"\0")
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def _painted(self, texture: Texture) -> int:
        """A material of its own, with the picture inside the file."""
        png = io.BytesIO()
        Image.fromarray(texture.picture.cpu().numpy()).save(png, "PNG")
        self.images.append({"bufferView": self._view(png.getvalue()), "mimeType": "image/png"})
        shading = MATERIAL["pbrMetallicRoughness"]
        painted = {**shading, "baseColorTexture": {"index": len(self.images) - 1}}
        self.materials.append({**MATERIAL, "pbrMetallicRoughness": painted})
        return len(self.materials) - 1

    def _view(self, raw: bytes, **extra: object) -> int:
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(raw)}
        self.views.append(view | extra)
        self.data += raw + b"\0" * (-len(raw) % 4)
        return len(self.views) - 1

    def _array(self, values: np.ndarray, kind: int, target: int, **extra: object) -> int:
        view = self._view(values.tobytes(), target=target)
        shape = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
        described = {"bufferView": view, "componentType": kind, "type": shape}
        self.accessors.append(described | {"count": len(values)} | extra)
        return len(self.accessors) - 1


def _chunk(kind: bytes, content: bytes, padding: bytes) -> bytes:
    content += padding * (-len(content) % 4)
    return struct.pack("<I4s", len(content), kind) + content


def _numpy_glb(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy().astype("<f4")


def write_obj(path: Path | str, mesh: Mesh) -> None:
    """Writes a mesh with y up, as readers of OBJ take it, all or nothing.

    Colours follow the place in each vertex's line, as they are (sRGB, 0 to 1); programs that do
    not know this leave them out.

    Raises:
        LociError: for a mesh without faces or with vertices that are not finite, or a file that
            cannot be written.
    """
    path = Path(path)
    if len(mesh.faces) == 0:
        raise LociError(f"{path}: the mesh has no faces, expected a surface")
    if not bool(mesh.vertices.isfinite().all()):
        raise LociError(f"{path}: the mesh has vertices that are not finite")
    columns = [to_gltf_frame(mesh.vertices).detach().float().cpu()]
    if mesh.colors is not None:
        columns.append(mesh.colors.detach().float().cpu().clamp(0, 1))
    rows = torch.cat(columns, dim=1).tolist()
    vertices = [" ".join(["v", *(f"{value:.6g}" for value in row)]) for row in rows]
    faces = [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    write_whole(path, "\n".join(["# loci", *vertices, *faces, ""]).encode())
