"""A triangle mesh with attributes at its vertices."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Texture:
    """Colours of a surface, spread out flat.

    Attributes:
        places: of the vertices in the picture, `[v, 2]`: from the left and from the top, in [0, 1].
        picture: RGB, `[h, w, 3]`.
    """

    places: Float[Tensor, "v 2"]
    picture: UInt8[Tensor, "h w 3"]

    def at(self, places: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        """Colours in [0, 1] at places in the picture, bilinear."""
        picture = self.picture.permute(2, 0, 1)[None].to(places) / 255
        # Within the middles of the outermost pixels: MPS cannot be told to repeat them.
        size = places.new_tensor([picture.shape[3], picture.shape[2]])
        inner = torch.minimum(torch.maximum(places, 0.5 / size), 1 - 0.5 / size)
        found = F.grid_sample(picture, (2 * inner - 1)[None, None], align_corners=False)
        return found[0, :, 0].T


@dataclass(frozen=True)
class Mesh:
    """A surface in the object's frame (z up, about [-0.5, 0.5]^3).

    Attributes:
        vertices: `[v, 3]`.
        faces: rows of `vertices`, counter-clockwise seen from outside, `[f, 3]`.
        colors: RGB in [0, 1] at the vertices, `[v, 3]`, or None.
        learned_normals: normals at the vertices as a decoder predicts them, each coordinate
            mapped to [0, 1], `[v, 3]`, or None.
        texture: what the surface looks like where that is finer than its vertices, or None.
        normals: unit normals of a surface that was cut open for its texture, `[v, 3]`; along a cut
            its own faces tell of one side only. None to go by the faces.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"] | None = None
    learned_normals: Float[Tensor, "v 3"] | None = None
    texture: Texture | None = None
    normals: Float[Tensor, "v 3"] | None = None

    @property
    def face_normals(self) -> Float[Tensor, "f 3"]:
        """Unit normals; 0 where a triangle has no area."""
        a, b, c = self.vertices[self.faces].unbind(1)
        return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)

    @property
    def vertex_normals(self) -> Float[Tensor, "v 3"]:
        """Unit normals of the faces around each vertex, by their areas, unless they are known; 0
        without any face."""
        if self.normals is not None:
            return self.normals
        a, b, c = self.vertices[self.faces].unbind(1)
        areas = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(self.vertices)
        for corner in self.faces.unbind(1):
            total = total.index_add(0, corner, areas)
        return F.normalize(total, dim=-1)
