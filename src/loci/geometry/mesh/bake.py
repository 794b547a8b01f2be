"""Baking a texture from views of an object."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from loci.errors import LociError, install_hint
from loci.geometry.camera import Camera
from loci.geometry.gaussians.render import RenderOutput
from loci.geometry.mesh.mesh import Mesh, Texture
from loci.geometry.mesh.render import face_weights, nearest_faces

GRAY = 0.5
"""Colour of texels that nothing is known about."""


@dataclass(frozen=True)
class BakeConfig:
    """How a texture is baked.

    Attributes:
        side: of the texture in pixels.
        views: cameras, evenly on a sphere around the object.
        pixels: side of each view.
        distance: of the cameras from the origin.
        fov: of the cameras, in degrees.
        sharpness: views are weighted by the cosine to the surface normal, to this power.
        min_cosine: views at more grazing angles are ignored.
        min_alpha: pixels that are more transparent are ignored.
        depth_slack: how far behind the nearest surface a texel may lie and still be visible.
    """

    side: int = 1024
    views: int = 48
    pixels: int = 512
    distance: float = 2.0
    fov: float = 40.0
    sharpness: float = 4.0
    min_cosine: float = 0.2
    min_alpha: float = 0.5
    depth_slack: float = 0.01


def need_texturing() -> None:
    """Raises LociError when a package that `bake_texture` needs is missing."""
    missing = [name for name in ("xatlas", "scipy") if find_spec(name) is None]
    if missing:
        raise LociError(f"a texture needs {' and '.join(missing)}: {install_hint('objects')}")


class Texels(NamedTuple):
    """The texels that lie on the surface (`covered`), with its positions, normals and vertex
    colours there."""

    covered: Bool[Tensor, "side side"]
    positions: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    colors: Float[Tensor, "n 3"] | None


class Unwrapped(NamedTuple):
    """A mesh with texture coordinates.

    Attributes:
        mesh: with vertices doubled along the seams.
        uv: of its vertices, in the unit square.
        sources: original vertex of each.
    """

    mesh: Mesh
    uv: Float[Tensor, "v 2"]
    sources: Int[Tensor, "v"]


def unwrap(mesh: Mesh, side: int) -> Unwrapped:
    """UV-unwraps a mesh by xatlas, for a texture of `side` pixels.

    Raises:
        LociError: for a mesh whose faces have no area.
    """
    import xatlas

    vertices = mesh.vertices.detach().float().cpu().numpy()
    rows = mesh.faces.cpu().numpy().astype(np.uint32)
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, rows)
    packing = xatlas.PackOptions()
    packing.padding, packing.bilinear, packing.resolution = 2, True, side
    atlas.generate(xatlas.ChartOptions(), packing)
    sources, faces, uv = atlas[0]
    if not np.isfinite(uv).all():
        raise LociError("a mesh whose faces have no area, expected a surface to paint")
    device = mesh.vertices.device
    chosen = torch.from_numpy(sources.astype(np.int64)).to(device)
    cut = Mesh(
        mesh.vertices[chosen],
        torch.from_numpy(faces.astype(np.int64)).to(device),
        None if mesh.colors is None else mesh.colors[chosen],
    )
    return Unwrapped(cut, torch.from_numpy(uv.astype(np.float32)).to(device), chosen)


@torch.no_grad()
def bake_texture(
    mesh: Mesh, render: Callable[[Camera, int], RenderOutput], config: BakeConfig | None = None
) -> Mesh:
    """The mesh with a texture baked from renders of the object.

    Every texel is the weighted mean of the views that see it; SAM 3D Objects optimises the texture
    view by view instead. Texels that no view sees take the mesh's vertex colours or, without
    these, the colour of the nearest known texel.

    Args:
        mesh: in [-0.5, 0.5]^3 or near it.
        render: renders the object over black, given a camera and the side in pixels.
        config: sizes; the defaults are for a texture of 1024 pixels.

    Raises:
        LociError: for a mesh without faces, or when a package is missing.
    """
    need_texturing()
    if not len(mesh.faces):
        raise LociError("a mesh without faces, expected a surface to paint")
    config = config or BakeConfig()
    cut, uv, sources = unwrap(mesh, config.side)
    # Normals of the original: along a seam the cut mesh has the faces of one side only.
    normals = mesh.vertex_normals[sources]
    texels = _texels(cut, uv, normals, config.side)
    total = torch.zeros_like(texels.positions)
    weight = total.new_zeros(len(total))
    for camera in Camera.on_sphere(config.views, config.distance, config.fov):
        view_weight, colors = _sample_view(cut, texels, camera.to(total), render, config)
        total += view_weight[:, None] * colors
        weight += view_weight
    colors = total / weight[:, None].clamp(min=1e-12)
    known = weight > 0
    if texels.colors is not None:
        colors = torch.where(known[:, None], colors, texels.colors)
        known = torch.ones_like(known)
    image = total.new_full((config.side, config.side, 3), GRAY)
    image[texels.covered] = colors
    filled = texels.covered.clone()
    filled[texels.covered] = known
    image = (_inpaint_nearest(image, filled).clamp(0, 1) * 255).round().to(torch.uint8)
    texture = Texture(uv, image)
    return replace(cut, colors=texture.at(uv), texture=texture, normals=normals)


def _texels(cut: Mesh, uv: Tensor, normals: Tensor, side: int) -> Texels:
    flat = torch.cat([uv * side, torch.ones_like(uv[:, :1])], dim=1)
    nearest = nearest_faces(flat, cut.faces, side, side)
    covered = nearest >= 0
    weights, _ = face_weights(flat, cut.faces, nearest, covered)
    corners, weights = cut.faces[nearest[covered]], weights[..., None]
    return Texels(
        covered,
        (cut.vertices[corners] * weights).sum(1),
        F.normalize((normals[corners] * weights).sum(1), dim=1),
        None if cut.colors is None else (cut.colors[corners] * weights).sum(1),
    )


def _sample_view(
    cut: Mesh,
    texels: Texels,
    camera: Camera,
    render: Callable[[Camera, int], RenderOutput],
    config: BakeConfig,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
    """Weight and colour of each texel in one view."""
    side = config.pixels
    rendering = render(camera, side)
    screen = camera.project(cut.vertices, side)
    nearest = nearest_faces(screen, cut.faces, side, side)
    covered = nearest >= 0
    depth = screen.new_full((side, side), torch.inf)
    depth[covered] = face_weights(screen, cut.faces, nearest, covered)[1]
    at = camera.project(texels.positions, side)
    column, row = (at[:, axis].floor().long().clamp(0, side - 1) for axis in (0, 1))
    towards = F.normalize(camera.eye - texels.positions, dim=1)
    cosine = (towards * texels.normals).sum(1)
    grid = (2 * at[:, :2] / side - 1)[None, None]
    sums = torch.cat([rendering.color, rendering.alpha[None]]).to(screen)[None]
    found = F.grid_sample(sums, grid, mode="bilinear", align_corners=False)[0, :, 0].T
    alpha = found[:, 3]
    # The depth of an oblique surface varies within a pixel.
    slack = config.depth_slack + at[:, 2] / camera.focal(side) / cosine.clamp(min=config.min_cosine)
    visible = at[:, 2] < depth[row, column] + slack
    visible &= (cosine > config.min_cosine) & (alpha > config.min_alpha)
    colors = found[:, :3] / alpha.clamp(min=config.min_alpha)[:, None]
    return torch.where(visible, cosine.clamp(min=0) ** config.sharpness, 0.0), colors.clamp(0, 1)


def _inpaint_nearest(
    image: Float[Tensor, "s s 3"], filled: Bool[Tensor, "s s"]
) -> Float[Tensor, "s s 3"]:
    """The nearest filled texel where there is none."""
    if not filled.any():
        return image
    from scipy.ndimage import distance_transform_edt

    found: Any = distance_transform_edt(~filled.cpu().numpy(), return_indices=True)
    rows, columns = torch.from_numpy(found[1]).long().to(image.device)
    return image[rows, columns]
