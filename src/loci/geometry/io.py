"""Files of splats (PLY and .splat, as viewers read them) and meshes (GLB by trimesh, OBJ)."""

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
from loci.geometry.mesh.mesh import Mesh
from loci.io.files import write_whole


def gaussian_columns(gaussians: Gaussians) -> dict[str, Float[Tensor, "n"]]:
    """Columns of a PLY file, by name in file order.

    Opacities are logits, scales logarithms, rotations quaternions w, x, y, z of any length.
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


def write_ply(path: Path | str, gaussians: Gaussians) -> None:
    """Writes a binary PLY of Gaussians, all or nothing. Raises LociError if it cannot."""
    columns = {name: _numpy(column) for name, column in gaussian_columns(gaussians).items()}
    vertices = np.empty(len(gaussians), dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column
    properties = [f"property float {name}" for name in columns]
    form = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header = "\n".join([*form, *properties, "end_header\n"])
    write_whole(Path(path), header.encode() + vertices.tobytes())


def write_splat(path: Path | str, gaussians: Gaussians) -> None:
    """Writes Gaussians in the format of web viewers (.splat), all or nothing.

    32 bytes each, without header: position and standard deviations in float32, then in bytes RGB
    and opacity, and the rotation w, x, y, z as 128 (q + 1). The largest and most opaque come
    first, so that a viewer shows the most as it loads. Colours are clipped to [0, 1].

    Raises:
        LociError: when the file cannot be written.
    """
    rgba = torch.cat([gaussians.colors, gaussians.opacities[:, None]], dim=1).clamp(0, 1)
    size = gaussians.scales.log().sum(1) + gaussians.opacities.log()
    order = _numpy(size).argsort(kind="stable")[::-1]
    rows = np.empty(len(gaussians), [("at", "<f4", 6), ("rgba", "u1", 4), ("turn", "u1", 4)])
    rows["at"] = _numpy(torch.cat([gaussians.positions, gaussians.scales], dim=1))
    rows["rgba"] = _numpy((rgba * 255).round())
    rows["turn"] = _numpy((gaussians.rotations * 128 + 128).round().clamp(0, 255))
    write_whole(Path(path), rows[order].tobytes())


LINEAR, CLAMP = 9729, 33071
"""glTF's numbers for how a texture is read."""
LINEAR_COLORS = "_COLOR_0"
"""Attribute of a trimesh whose values are written as they are."""


def to_gltf_frame(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """From the object's frame (z up) to glTF's (y up): (x, y, z) -> (x, z, -y)."""
    x, y, z = points.unbind(1)
    return torch.stack([x, z, -y], dim=1)


def from_gltf_frame(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """From glTF's frame to the object's, which poses apply to."""
    x, y, z = points.unbind(1)
    return torch.stack([x, -z, y], dim=1)


def write_glb(
    path: Path | str, meshes: Mapping[str, Mesh], camera: dict[str, Any] | None = None
) -> None:
    """Writes a scene with one node for each named mesh, all or nothing.

    A camera, in glTF's terms, becomes a node at the origin that looks along -z, y up.

    Vertex colours are taken as sRGB and stored linear (`COLOR_0`, float), as glTF defines them. A
    mesh with them has no material, because trimesh ignores the vertex colours of one that has; a
    mesh with a texture has no vertex colours, because viewers multiply the two.

    Raises:
        LociError: for no mesh, a mesh without faces or with vertices that are not finite, or a
            file that cannot be written.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb

    path = Path(path)
    if not meshes:
        raise LociError(f"{path}: expected at least one mesh to write")
    scene = trimesh.Scene()
    for name, mesh in meshes.items():
        if len(mesh.faces) == 0:
            raise LociError(f"{path}: {name} has no faces, expected a surface")
        if not bool(mesh.vertices.isfinite().all()):
            raise LociError(f"{path}: {name} has vertices that are not finite")
        scene.add_geometry(_to_trimesh(mesh), node_name=name, geom_name=name)

    def finish(tree: dict[str, Any]) -> None:
        _finish_gltf(tree)
        if camera is not None:
            tree["cameras"] = [camera]
            tree["nodes"].append({"name": "camera", "camera": 0})
            tree["scenes"][0]["nodes"].append(len(tree["nodes"]) - 1)

    content = export_glb(scene, include_normals=True, tree_postprocessor=finish)
    write_whole(path, content)


def _to_trimesh(mesh: Mesh) -> Any:
    """In glTF's frame, with a texture or vertex colours if the mesh has them."""
    import trimesh
    from trimesh.visual import ColorVisuals, TextureVisuals
    from trimesh.visual.material import PBRMaterial

    normals = _numpy(to_gltf_frame(mesh.vertex_normals))
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0, 1, 0)  # a vertex without a surface
    matte = PBRMaterial(metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True)
    visual = TextureVisuals(material=matte)
    attributes: dict[str, Any] = {}
    if mesh.texture is not None:
        # trimesh counts texture coordinates from below, glTF and `Texture` from the top.
        uv = _numpy(mesh.texture.uv) * (1, -1) + (0, 1)
        matte.baseColorTexture = Image.fromarray(mesh.texture.image.cpu().numpy())
        visual = TextureVisuals(uv=uv, material=matte)
    elif mesh.colors is not None:
        attributes = {LINEAR_COLORS: srgb_to_linear(_numpy(mesh.colors).clip(0, 1))}
        visual = ColorVisuals()
    return trimesh.Trimesh(
        _numpy(to_gltf_frame(mesh.vertices)),
        mesh.faces.cpu().numpy(),
        vertex_normals=normals,
        vertex_attributes=attributes,
        visual=visual,
        process=False,
    )


def _finish_gltf(tree: dict[str, Any]) -> None:
    """Vertex colours in float, where trimesh would write bytes, and textures that do not repeat."""
    tree["asset"]["generator"] = "loci"
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            attributes = primitive["attributes"]
            if LINEAR_COLORS in attributes:
                attributes["COLOR_0"] = attributes.pop(LINEAR_COLORS)
    if tree.get("textures"):
        tree["samplers"] = [{"magFilter": LINEAR, "wrapS": CLAMP, "wrapT": CLAMP}]
        for texture in tree["textures"]:
            texture["sampler"] = 0


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1] to linear ones."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear values in [0, 1] to sRGB."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def write_obj(path: Path | str, mesh: Mesh) -> None:
    """Writes a mesh with y up, all or nothing.

    Vertex colours follow the position in each line (sRGB, 0 to 1), as MeshLab and Blender read
    them; trimesh would round them to bytes.

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


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
