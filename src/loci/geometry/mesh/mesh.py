"""Triangle meshes with vertex colours or a texture."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Texture:
    """A texture and the coordinates of a mesh in it.

    Attributes:
        uv: of the vertices, `[v, 2]`, in [0, 1] from the left and from the top.
        image: RGB, `[h, w, 3]`.
    """

    uv: Float[Tensor, "v 2"]
    image: UInt8[Tensor, "h w 3"]

    def at(self, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        """Colours in [0, 1], sampled bilinearly."""
        image = self.image.permute(2, 0, 1)[None].to(uv) / 255
        # Clipped to pixel centres: MPS has no border padding.
        size = uv.new_tensor([image.shape[3], image.shape[2]])
        inner = torch.minimum(torch.maximum(uv, 0.5 / size), 1 - 0.5 / size)
        sampled = F.grid_sample(image, (2 * inner - 1)[None, None], align_corners=False)
        return sampled[0, :, 0].T


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, of an object in its frame (z up, about [-0.5, 0.5]^3) or of a scene.

    Attributes:
        vertices: `[v, 3]`.
        faces: indices of `vertices`, counter-clockwise seen from outside, `[f, 3]`.
        colors: RGB in [0, 1] at the vertices, `[v, 3]`, or None.
        learned_normals: vertex normals predicted by a decoder, mapped to [0, 1], `[v, 3]`, or None.
        texture: used instead of vertex colours, or None.
        normals: unit vertex normals, `[v, 3]`, for meshes cut along the seams of a texture; None to
            compute them from the faces.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"] | None = None
    learned_normals: Float[Tensor, "v 3"] | None = None
    texture: Texture | None = None
    normals: Float[Tensor, "v 3"] | None = None

    @property
    def face_normals(self) -> Float[Tensor, "f 3"]:
        """Unit normals; 0 for triangles without area."""
        a, b, c = self.vertices[self.faces].unbind(1)
        return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)

    @property
    def vertex_normals(self) -> Float[Tensor, "v 3"]:
        """`normals`, or the area-weighted unit normals of the adjacent faces; 0 without any."""
        if self.normals is not None:
            return self.normals
        a, b, c = self.vertices[self.faces].unbind(1)
        areas = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(self.vertices)
        for corner in self.faces.unbind(1):
            total = total.index_add(0, corner, areas)
        return F.normalize(total, dim=-1)
