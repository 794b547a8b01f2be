"""A mesh renderer for previews: a z-buffer in plain torch, with smooth shading."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera, Size, height_width
from loci.geometry.gaussians.projection import NEAR
from loci.geometry.gaussians.render import Background, RenderOutput, over
from loci.geometry.mesh.mesh import Mesh

BATCH = 1 << 20
"""Pairs of a face and a pixel that are tested at once."""
SMOOTH = 0.9
"""Cosine between the normals of a face and its vertex below which the face is shaded flat."""
NO_FACE = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class PreviewLight:
    """Soft light that moves with the camera.

    Attributes:
        ambient: intensity of ambient light.
        sky: intensity of light from above (hemispherical).
        key: intensity of the key light.
        lamp: direction to the key light, in the camera frame (x left, y up, z forward).
        plain: RGB of a mesh without colours.
    """

    ambient: float = 0.5
    sky: float = 0.2
    key: float = 0.45
    lamp: tuple[float, float, float] = (0.5, 0.6, -0.8)
    plain: tuple[float, float, float] = (0.75, 0.75, 0.78)


@torch.no_grad()
def render_mesh(
    mesh: Mesh,
    camera: Camera,
    size: Size,
    background: Background = 0.0,
    light: PreviewLight | None = PreviewLight(),
    samples: int = 2,
) -> RenderOutput:
    """Renders a mesh, both sides of its faces, with its texture or vertex colours. Not
    differentiable.

    Args:
        mesh: in the camera's world. Faces with a vertex nearer than `NEAR` are left out.
        camera: moved to the mesh's device.
        size: height and width in pixels, or one number for a square.
        background: RGB, one grey level, or an image of that size.
        light: None renders the colours unlit.
        samples: supersampling along each side. Depth is the mean over covered samples.
    """
    height, width = height_width(size)
    camera = camera.to(mesh.vertices)
    screen = camera.project(mesh.vertices, (height * samples, width * samples))
    nearest = nearest_faces(screen, mesh.faces, height * samples, width * samples)
    covered = nearest >= 0
    color = screen.new_zeros(3, *nearest.shape)
    depth = screen.new_zeros(nearest.shape)
    weights, z = face_weights(screen, mesh.faces, nearest, covered)
    depth[covered] = z
    color[:, covered] = _shaded(mesh, camera, nearest[covered], weights, light).T
    sums = torch.cat([color, depth[None], covered.to(depth)[None]])
    sums = F.avg_pool2d(sums, samples)
    alpha = sums[4]
    return RenderOutput(over(sums[:3], alpha, background), alpha, sums[3] / alpha.clamp(min=1e-6))


def nearest_faces(
    screen: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], height: int, width: int
) -> Int[Tensor, "h w"]:
    """The face visible at every pixel's centre, or -1.

    Args:
        screen: vertices as x and y in pixels and depth, from `Camera.project`.
        faces: indices of vertices.
        height, width: of the image.
    """
    best = torch.full((height * width,), NO_FACE, device=screen.device)
    for face, x, y in _candidates(screen, faces, height, width):
        weights = _barycentric(screen[faces[face]], x + 0.5, y + 0.5)
        inside = (weights >= 0).all(1)
        face, pixel, weights = face[inside], (y * width + x)[inside], weights[inside]
        z = 1 / (weights / screen[faces[face], 2]).sum(1)
        # Positive floats sort like their bits read as integers: depth first, then the face.
        key = (z.float().view(torch.int32).long() << 32) + face
        best.scatter_reduce_(0, pixel, key, "amin")
    face = torch.where(best == NO_FACE, -1, best & 0xFFFFFFFF)
    return face.view(height, width)


def _candidates(
    screen: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], height: int, width: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of pairs: faces, and columns and rows of the pixels in their bounding boxes."""
    corners = screen[faces]
    most = corners.new_tensor([width - 1, height - 1])
    # Non-finite vertices compare false everywhere and so are left out.
    in_front = (corners[..., 2] > NEAR).all(1) & corners.isfinite().all(2).all(1)
    low = (corners[..., :2].amin(1) - 0.5).ceil().clamp(min=0)
    high = torch.minimum((corners[..., :2].amax(1) - 0.5).floor(), most)
    rows = (in_front & (low <= high).all(1)).nonzero()[:, 0]
    low, high = low[rows].long(), high[rows].long()
    across, down = (high - low + 1).unbind(1)
    ends = (across * down).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, BATCH):
        pair = torch.arange(start, min(start + BATCH, total), device=screen.device)
        box = torch.searchsorted(ends, pair, right=True)
        within = pair - (ends[box] - across[box] * down[box])
        step_down = torch.div(within, across[box], rounding_mode="floor")
        x = low[box, 0] + within - step_down * across[box]
        yield rows[box], x, low[box, 1] + step_down


def _barycentric(
    corners: Float[Tensor, "n 3 3"], x: Float[Tensor, "n"], y: Float[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Barycentric coordinates at screen positions; not finite for a triangle without area."""
    ax, bx, cx = (corners[..., 0] - x[:, None]).unbind(1)
    ay, by, cy = (corners[..., 1] - y[:, None]).unbind(1)
    parts = torch.stack([bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx], dim=1)
    return parts / parts.sum(1, keepdim=True)


def face_weights(
    screen: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    nearest: Int[Tensor, "h w"],
    covered: Bool[Tensor, "h w"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """Perspective-correct barycentric coordinates and depth at every covered pixel; arguments as
    for `nearest_faces`, and its result."""
    y, x = covered.nonzero().unbind(1)
    corners = screen[faces[nearest[covered]]]
    weights = _barycentric(corners, x + 0.5, y + 0.5) / corners[..., 2]
    z = 1 / weights.sum(1)
    return weights * z[:, None], z


def _shaded(
    mesh: Mesh,
    camera: Camera,
    face: Int[Tensor, "n"],
    weights: Float[Tensor, "n 3"],
    light: PreviewLight | None,
) -> Float[Tensor, "n 3"]:
    """Shaded colours of surface points."""
    corners = mesh.faces[face]
    plain = (light or PreviewLight()).plain
    color = weights.new_tensor(plain).expand(len(face), 3)
    if mesh.texture is not None:
        color = mesh.texture.at((mesh.texture.uv[corners] * weights[..., None]).sum(1))
    elif mesh.colors is not None:
        color = (mesh.colors[corners] * weights[..., None]).sum(1).clamp(0, 1)
    if light is None:
        return color
    flat = mesh.face_normals[face]
    eye = camera.view(mesh.vertices)[corners[:, 0]]
    away = ((flat @ camera.rotation) * eye).sum(1, keepdim=True) > 0
    normal = (_corner_normals(mesh, corners, flat) * weights[..., None]).sum(1)
    normal = F.normalize(torch.where(away, -normal, normal), dim=1)
    lamp = F.normalize(weights.new_tensor(light.lamp), dim=0)
    facing = ((normal @ camera.rotation) @ lamp).clamp(min=0)
    bright = light.ambient + light.sky * (0.5 + normal[:, 2] / 2) + light.key * facing
    return (color * bright[:, None]).clamp(0, 1)


def _corner_normals(
    mesh: Mesh, corners: Int[Tensor, "n 3"], flat: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3 3"]:
    """Vertex normals, or the face's own at sharp edges."""
    smooth = mesh.vertex_normals[corners]
    sharp = (smooth * flat[:, None]).sum(2, keepdim=True) < SMOOTH
    return torch.where(sharp, flat[:, None], smooth)
