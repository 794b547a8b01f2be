"""A texture from what an object looks like all around."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from loci.errors import LociError
from loci.geometry.camera import Camera
from loci.geometry.gaussians.render import Rendering
from loci.geometry.mesh.mesh import Mesh, Texture
from loci.geometry.mesh.render import face_weights, nearest_faces
from loci.geometry.mesh.simplify import EXTRA

GREY = 0.5
"""Of a surface that no view sees."""


@dataclass(frozen=True)
class BakeConfig:
    """How a texture is made.

    Attributes:
        side: of the texture in pixels.
        views: all around the object.
        pixels: on a side of each view.
        distance, fov: of the cameras, from the middle and in degrees.
        sharpness: a view counts by the cosine between it and the surface, to this power.
        grazing: cosines below this do not count.
        opaque: nor do pixels that are less covered.
        behind: how far behind the nearest surface a place is still taken for it.
    """

    side: int = 1024
    views: int = 48
    pixels: int = 512
    distance: float = 2.0
    fov: float = 40.0
    sharpness: float = 4.0
    grazing: float = 0.2
    opaque: float = 0.5
    behind: float = 0.01


def need_texturing() -> None:
    """Raises LociError when a package that makes a texture is missing."""
    missing = [name for name in ("xatlas", "scipy") if find_spec(name) is None]
    if missing:
        raise LociError(f"a texture needs {' and '.join(missing)}: {EXTRA}")


class Texels(NamedTuple):
    """Pixels of a texture that show a part of the surface, with its place, its direction and the
    colours that the mesh has there."""

    shown: Bool[Tensor, "side side"]
    places: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    colors: Float[Tensor, "n 3"] | None


class Unwrapped(NamedTuple):
    """A surface cut open and spread out.

    Attributes:
        mesh: with vertices doubled where it was cut.
        places: of its vertices, in the unit square.
        sources: rows of the vertices before that they come from.
    """

    mesh: Mesh
    places: Float[Tensor, "v 2"]
    sources: Int[Tensor, "v"]


def unwrap(mesh: Mesh, side: int) -> Unwrapped:
    """The surface cut open and spread out flat, by xatlas, for a texture of `side` pixels.

    Raises:
        LociError: for a surface that cannot be spread out.
    """
    import xatlas

    vertices = mesh.vertices.detach().float().cpu().numpy()
    rows = mesh.faces.cpu().numpy().astype(np.uint32)
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, rows)
    packing = xatlas.PackOptions()
    packing.padding, packing.bilinear, packing.resolution = 2, True, side
    atlas.generate(xatlas.ChartOptions(), packing)
    sources, faces, places = atlas[0]
    if not np.isfinite(places).all():
        raise LociError("a mesh whose faces have no area, expected a surface to paint")
    device = mesh.vertices.device
    chosen = torch.from_numpy(sources.astype(np.int64)).to(device)
    cut = Mesh(
        mesh.vertices[chosen],
        torch.from_numpy(faces.astype(np.int64)).to(device),
        None if mesh.colors is None else mesh.colors[chosen],
    )
    return Unwrapped(cut, torch.from_numpy(places.astype(np.float32)).to(device), chosen)


@torch.no_grad()
def bake_texture(
    mesh: Mesh, look: Callable[[Camera, int], Rendering], config: BakeConfig | None = None
) -> Mesh:
    """The mesh with a texture of how the object looks (SAM 3D Objects, 12).

    Every pixel of the texture is the mean of the views that see its place, those that face it
    before all. Where the original optimises the texture view by view, this is one pass and needs
    no optimiser. Places that no view sees keep the mesh's own colours; without any, they take that
    of the nearest one in the texture.

    Args:
        mesh: in [-0.5, 0.5]^3 or near it.
        look: a picture of the object over black, from a camera, of so many pixels a side.
        config: sizes; the defaults are for a texture of 1024 pixels.

    Raises:
        LociError: for a mesh without faces, or when a package is missing.
    """
    need_texturing()
    if not len(mesh.faces):
        raise LociError("a mesh without faces, expected a surface to paint")
    config = config or BakeConfig()
    cut, places, sources = unwrap(mesh, config.side)
    # Of the whole surface: along a cut the flat pieces know one side only.
    normals = mesh.vertex_normals[sources]
    texels = _texels(cut, places, normals, config.side)
    total = torch.zeros_like(texels.places)
    weight = total.new_zeros(len(total))
    for camera in Camera.on_sphere(config.views, config.distance, config.fov):
        seen, colours = _seen(cut, texels, camera.to(total), look, config)
        total += seen[:, None] * colours
        weight += seen
    colours = total / weight[:, None].clamp(min=1e-12)
    known = weight > 0
    if texels.colors is not None:
        colours = torch.where(known[:, None], colours, texels.colors)
        known = torch.ones_like(known)
    picture = total.new_full((config.side, config.side, 3), GREY)
    picture[texels.shown] = colours
    filled = texels.shown.clone()
    filled[texels.shown] = known
    painted = (_spread(picture, filled).clamp(0, 1) * 255).round().to(torch.uint8)
    texture = Texture(places, painted)
    return replace(cut, colors=texture.at(places), texture=texture, normals=normals)


def _texels(cut: Mesh, places: Tensor, normals: Tensor, side: int) -> Texels:
    flat = torch.cat([places * side, torch.ones_like(places[:, :1])], dim=1)
    nearest = nearest_faces(flat, cut.faces, side, side)
    shown = nearest >= 0
    weights, _ = face_weights(flat, cut.faces, nearest, shown)
    corners = cut.faces[nearest[shown]]
    spread = weights[..., None]
    return Texels(
        shown,
        (cut.vertices[corners] * spread).sum(1),
        F.normalize((normals[corners] * spread).sum(1), dim=1),
        None if cut.colors is None else (cut.colors[corners] * spread).sum(1),
    )


def _seen(
    cut: Mesh,
    texels: Texels,
    camera: Camera,
    look: Callable[[Camera, int], Rendering],
    config: BakeConfig,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
    """How much a view counts for each place, and the colour it sees there."""
    side = config.pixels
    drawn = look(camera, side)
    screen = camera.project(cut.vertices, side)
    nearest = nearest_faces(screen, cut.faces, side, side)
    covered = nearest >= 0
    depth = screen.new_full((side, side), torch.inf)
    depth[covered] = face_weights(screen, cut.faces, nearest, covered)[1]
    at = camera.project(texels.places, side)
    column, row = (at[:, axis].floor().long().clamp(0, side - 1) for axis in (0, 1))
    towards = F.normalize(camera.eye - texels.places, dim=1)
    cosine = (towards * texels.normals).sum(1)
    grid = (2 * at[:, :2] / side - 1)[None, None]
    sums = torch.cat([drawn.colour, drawn.alpha[None]]).to(screen)[None]
    found = F.grid_sample(sums, grid, mode="bilinear", align_corners=False)[0, :, 0].T
    alpha = found[:, 3]
    # A slanted surface is nearer or farther within its own pixel.
    slack = config.behind + at[:, 2] / camera.focal(side) / cosine.clamp(min=config.grazing)
    foremost = at[:, 2] < depth[row, column] + slack
    fine = foremost & (cosine > config.grazing) & (alpha > config.opaque)
    colours = found[:, :3] / alpha.clamp(min=config.opaque)[:, None]
    return torch.where(fine, cosine.clamp(min=0) ** config.sharpness, 0.0), colours.clamp(0, 1)


def _spread(picture: Float[Tensor, "s s 3"], filled: Bool[Tensor, "s s"]) -> Float[Tensor, "s s 3"]:
    """Where nothing is known, the nearest that is."""
    if not filled.any():
        return picture
    from scipy.ndimage import distance_transform_edt

    found: Any = distance_transform_edt(~filled.cpu().numpy(), return_indices=True)
    rows, columns = torch.from_numpy(found[1]).long().to(picture.device)
    return picture[rows, columns]
