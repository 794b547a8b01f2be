"""Wavefront OBJ: the mesh format every tool reads, with colours at the vertices."""

from pathlib import Path

import torch

from loci.errors import LociError
from loci.geometry.glb import to_gltf_frame
from loci.geometry.mesh import Mesh
from loci.layers.weights import write_whole


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
