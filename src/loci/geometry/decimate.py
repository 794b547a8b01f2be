"""Fewer faces for the same surface."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch

from loci.errors import LociError
from loci.geometry.mesh import Mesh

EXTRA = "pip install 'genius-loci[objects]'"


def need_decimation() -> None:
    """Raises LociError when a package that spares faces is missing."""
    names = {"fast_simplification": "fast-simplification", "scipy": "scipy"}
    missing = [name for module, name in names.items() if find_spec(module) is None]
    if missing:
        raise LociError(f"fewer faces need {' and '.join(missing)}: {EXTRA}")


def decimated(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with about so many faces, by quadric errors (SAM 3D Objects, 12); what is smaller
    stays as it is. Colours are those of the nearest vertex before; decoded normals are dropped.

    Raises:
        LociError: for fewer than 4 faces, or when a package is missing.
    """
    if faces < 4:
        raise LociError(f"{faces} faces, expected at least 4")
    if len(mesh.faces) <= faces:
        return replace(mesh, learned_normals=None)
    need_decimation()
    import fast_simplification
    from scipy.spatial import KDTree

    vertices = mesh.vertices.detach().float().cpu().numpy()
    rows = mesh.faces.cpu().numpy().astype(np.int32)
    places, kept = fast_simplification.simplify(vertices, rows, target_count=faces)[:2]
    _, nearest = KDTree(vertices).query(places)
    colors = None if mesh.colors is None else mesh.colors[torch.from_numpy(nearest)]
    device = mesh.vertices.device
    return Mesh(
        torch.from_numpy(places.astype(np.float32)).to(device),
        torch.from_numpy(kept.astype(np.int64)).to(device),
        colors,
    )
