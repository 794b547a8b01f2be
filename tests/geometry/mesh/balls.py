"""Balls with a pattern finer than their triangles."""

import torch
import trimesh
from torch import Tensor

from loci.geometry.mesh.mesh import Mesh


def painting(points: Tensor) -> Tensor:
    """Bands far finer than a coarse ball's triangles."""
    waves = torch.sin(points * torch.tensor([14.0, 18.0, 22.0]))
    return 0.5 + 0.4 * waves


def ball(subdivisions: int) -> Mesh:
    solid = trimesh.creation.icosphere(subdivisions, 0.4)
    vertices = torch.tensor(solid.vertices, dtype=torch.float32)
    return Mesh(vertices, torch.tensor(solid.faces).long(), painting(vertices))


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
