"""PLY files: splats as every Gaussian viewer reads them, and meshes with coloured vertices."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.gaussians import Gaussians
from loci.geometry.mesh import Mesh
from loci.layers.weights import write_whole


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
    header = _header([f"element vertex {len(gaussians)}", *properties])
    write_whole(Path(path), header + vertices.tobytes())


def write_mesh_ply(path: Path | str, mesh: Mesh) -> None:
    """Writes a binary PLY of a mesh in the object's frame, with its colours if it has any.

    Raises LociError if the file cannot be written.
    """
    fields = [(name, "<f4", "float") for name in ("x", "y", "z")]
    if mesh.colors is not None:
        fields += [(name, "u1", "uchar") for name in ("red", "green", "blue")]
    vertices = np.empty(len(mesh.vertices), dtype=[(name, kind) for name, kind, _ in fields])
    values = [*_numpy(mesh.vertices).T]
    if mesh.colors is not None:
        values += [*np.round(_numpy(mesh.colors).clip(0, 1) * 255).T]
    for (name, _, _), column in zip(fields, values, strict=True):
        vertices[name] = column
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("rows", "<i4", (3,))])
    faces["count"], faces["rows"] = 3, mesh.faces.cpu().numpy()
    header = _header(
        [
            f"element vertex {len(vertices)}",
            *(f"property {kind} {name}" for name, _, kind in fields),
            f"element face {len(faces)}",
            "property list uchar int vertex_indices",
        ]
    )
    write_whole(Path(path), header + vertices.tobytes() + faces.tobytes())


def _header(lines: list[str]) -> bytes:
    text = ["ply", "format binary_little_endian 1.0", *lines, "end_header"]
    return ("\n".join(text) + "\n").encode()


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
