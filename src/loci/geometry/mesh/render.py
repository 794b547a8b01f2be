"""A mesh to a picture: a z-buffer in plain torch, smooth shading, for previews."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from loci.geometry.camera import Camera, Size, height_width
from loci.geometry.gaussians.projection import NEAR
from loci.geometry.gaussians.render import Background, Rendering, over
from loci.geometry.mesh.mesh import Mesh

PIECE = 1 << 20
"""Pairs of a face and a pixel that are tried at once."""
EDGE = 0.9
"""Faces that turn away from a vertex's normal by more than this cosine meet in a visible edge."""
NO_FACE = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class PreviewLight:
    """Soft daylight that goes with the camera.

    Attributes:
        ambient: what every surface gets.
        sky: what a surface that looks straight up gets more than one that looks down.
        key: what a surface facing the lamp gets.
        lamp: towards the lamp, in the camera frame (x left, y up, z forward).
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
) -> Rendering:
    """Draws a mesh with its texture or vertex colours; both sides of a face are seen. Not
    differentiable.

    Args:
        mesh: in the camera's world. Faces that reach nearer than `NEAR` are left out.
        camera: where it is seen from.
        size: height and width in pixels, or one number for a square.
        background: RGB, one grey level, or a picture of that size.
        light: None shows the colours as they are.
        samples: pixels are the mean of this many squared. Depth is the mean over those covered.
    """
    height, width = height_width(size)
    camera = camera.to(mesh.vertices)
    screen = camera.project(mesh.vertices, (height * samples, width * samples))
    nearest = nearest_faces(screen, mesh.faces, height * samples, width * samples)
    covered = nearest >= 0
    colour = screen.new_zeros(3, *nearest.shape)
    depth = screen.new_zeros(nearest.shape)
    weights, z = face_weights(screen, mesh.faces, nearest, covered)
    depth[covered] = z
    colour[:, covered] = _shaded(mesh, camera, nearest[covered], weights, light).T
    sums = torch.cat([colour, depth[None], covered.to(depth)[None]])
    sums = F.avg_pool2d(sums, samples)
    alpha = sums[4]
    return Rendering(over(sums[:3], alpha, background), alpha, sums[3] / alpha.clamp(min=1e-6))


def nearest_faces(
    screen: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], height: int, width: int
) -> Int[Tensor, "h w"]:
    """The face seen at every pixel's centre, or -1.

    Args:
        screen: x and y of the vertices in pixels, and z, as `Camera.project` makes them.
        faces: rows of them.
        height, width: of the picture.
    """
    best = torch.full((height * width,), NO_FACE, device=screen.device)
    for face, x, y in _candidates(screen, faces, height, width):
        weights = _barycentric(screen[faces[face]], x + 0.5, y + 0.5)
        inside = (weights >= 0).all(1)
        face, pixel, weights = face[inside], (y * width + x)[inside], weights[inside]
        z = 1 / (weights / screen[faces[face], 2]).sum(1)
        # Positive floats keep their order when read as integers: depth first, then the face.
        key = (z.float().view(torch.int32).long() << 32) + face
        best.scatter_reduce_(0, pixel, key, "amin")
    face = torch.where(best == NO_FACE, -1, best & 0xFFFFFFFF)
    return face.view(height, width)


def _candidates(
    screen: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], height: int, width: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Faces, and columns and rows of the pixels in the boxes around them, in pieces."""
    corners = screen[faces]
    most = corners.new_tensor([width - 1, height - 1])
    # Non-finite places compare false everywhere and so are left out.
    before = (corners[..., 2] > NEAR).all(1) & corners.isfinite().all(2).all(1)
    low = (corners[..., :2].amin(1) - 0.5).ceil().clamp(min=0)
    high = torch.minimum((corners[..., :2].amax(1) - 0.5).floor(), most)
    rows = (before & (low <= high).all(1)).nonzero()[:, 0]
    low, high = low[rows].long(), high[rows].long()
    across, down = (high - low + 1).unbind(1)
    ends = (across * down).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, PIECE):
        pair = torch.arange(start, min(start + PIECE, total), device=screen.device)
        box = torch.searchsorted(ends, pair, right=True)
        within = pair - (ends[box] - across[box] * down[box])
        step_down = torch.div(within, across[box], rounding_mode="floor")
        x = low[box, 0] + within - step_down * across[box]
        yield rows[box], x, low[box, 1] + step_down


def _barycentric(
    corners: Float[Tensor, "n 3 3"], x: Float[Tensor, "n"], y: Float[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Weights of a triangle's corners at places on the screen; not finite without an area."""
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
    """Weights of the corners in space, and z, at every covered pixel; arguments as those of
    `nearest_faces` and what it returned."""
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
    """Colours of surface points, lit."""
    corners = mesh.faces[face]
    plain = (light or PreviewLight()).plain
    colour = weights.new_tensor(plain).expand(len(face), 3)
    if mesh.texture is not None:
        colour = mesh.texture.at((mesh.texture.places[corners] * weights[..., None]).sum(1))
    elif mesh.colors is not None:
        colour = (mesh.colors[corners] * weights[..., None]).sum(1).clamp(0, 1)
    if light is None:
        return colour
    flat = mesh.face_normals[face]
    eye = camera.view(mesh.vertices)[corners[:, 0]]
    away = ((flat @ camera.rotation) * eye).sum(1, keepdim=True) > 0
    normal = (_corner_normals(mesh, corners, flat) * weights[..., None]).sum(1)
    normal = F.normalize(torch.where(away, -normal, normal), dim=1)
    lamp = F.normalize(weights.new_tensor(light.lamp), dim=0)
    facing = ((normal @ camera.rotation) @ lamp).clamp(min=0)
    bright = light.ambient + light.sky * (0.5 + normal[:, 2] / 2) + light.key * facing
    return (colour * bright[:, None]).clamp(0, 1)


def _corner_normals(
    mesh: Mesh, corners: Int[Tensor, "n 3"], flat: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3 3"]:
    """The vertices' normals, or the face's own where the surface has an edge."""
    smooth = mesh.vertex_normals[corners]
    edge = (smooth * flat[:, None]).sum(2, keepdim=True) < EDGE
    return torch.where(edge, flat[:, None], smooth)
