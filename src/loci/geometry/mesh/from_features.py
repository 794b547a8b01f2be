"""Meshes from the mesh decoder's output at active voxels, without a dense grid."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.geometry.mesh.continuation import MARGIN, continued
from loci.geometry.mesh.flexicubes import Cubes, activated, extract_isosurface
from loci.geometry.mesh.mesh import Mesh
from loci.nn.sparse.voxels import KeyIndex

CHANNELS = {"sdf": 8, "deform": 8 * 3, "weights": 12 + 8 + 1, "colors": 8 * 6}
"""The 101 channels of a voxel, in order; those in eights are corner by corner."""


class CornerValues(NamedTuple):
    """Values at grid corners: `keys` ascending, `sdf` `[n]`, `deform` `[n, 3]`, `colors` `[n, 6]`.

    A corner's key is (x (R + 1) + y) (R + 1) + z.
    """

    keys: Tensor
    sdf: Tensor
    deform: Tensor
    colors: Tensor


def features_to_mesh(
    feats: Float[Tensor, "n 101"],
    coords: Int[Tensor, "n 3"],
    resolution: int,
    closed: bool = False,
) -> Mesh:
    """The mesh of one object.

    Args:
        feats: the decoder's channels; not changed (the published code adds its bias in place, so
            that a second extraction gives another surface).
        coords: active voxels, distinct, in [0, resolution).
        resolution: voxels along the grid's side, R.
        closed: whether corners that no active voxel touches take the sign of their neighbours, and
            the surface may leave the grid by one voxel: it has no border then. In the published
            model they are outside, so a solid object has a second, inner surface.
    """
    sdf, deform, weights, colors = feats.float().split(list(CHANNELS.values()), dim=1)
    margin = MARGIN + 1 if closed else 0
    active, side = coords.long() + margin, resolution + 2 * margin
    touched = _averaged(active, side, sdf - 1 / resolution, deform, colors)
    if closed:
        touched = _with_continued(touched, side)
    near = _cubes_with_inside_corners(touched, side)
    corners = _fill(touched, torch.unique(_corner_keys(near, side)))
    cubes = Cubes(torch.searchsorted(corners.keys, _corner_keys(near, side)), near)
    row = KeyIndex(_key(active, side)).find(_key(near, side))
    padded = torch.cat([weights, weights.new_zeros(1, weights.shape[1])])  # row -1: inactive
    beta, alpha, gamma = padded[row].split([12, 8, 1], dim=1)
    surface = extract_isosurface(
        _positions(corners, resolution, margin),
        corners.sdf,
        cubes,
        activated(beta, alpha, gamma[:, 0]),
        corners.colors,
    )
    assert surface.attributes is not None
    colors, normals = surface.attributes.split(3, dim=1)
    return Mesh(surface.vertices, surface.faces, colors, normals)


def _key(places: Int[Tensor, "*n 3"], side: int) -> Int[Tensor, "*n"]:
    x, y, z = places.unbind(-1)
    return (x * side + y) * side + z


def _places(keys: Int[Tensor, "n"], side: int) -> Int[Tensor, "n 3"]:
    return torch.stack([keys // side**2, keys // side % side, keys % side], dim=1)


def _corner_offsets(device: torch.device) -> Int[Tensor, "8 3"]:
    corner = torch.arange(8, device=device)
    return torch.stack([corner & 1, corner >> 1 & 1, corner >> 2 & 1], dim=1)


def _corner_keys(voxels: Int[Tensor, "n 3"], resolution: int) -> Int[Tensor, "n 8"]:
    return _key(voxels[:, None] + _corner_offsets(voxels.device), resolution + 1)


def _averaged(
    voxels: Int[Tensor, "n 3"],
    resolution: int,
    sdf: Float[Tensor, "n 8"],
    deform: Float[Tensor, "n 24"],
    colors: Float[Tensor, "n 48"],
) -> CornerValues:
    """Means over the active voxels that share a corner."""
    keys, inverse, count = torch.unique(
        _corner_keys(voxels, resolution), return_inverse=True, return_counts=True
    )
    corners = [sdf.unflatten(1, (8, 1)), deform.unflatten(1, (8, 3)), colors.unflatten(1, (8, 6))]
    values = torch.cat(corners, dim=-1).flatten(0, 1)
    total = values.new_zeros(keys.numel(), values.shape[1]).index_add(0, inverse.flatten(), values)
    mean = total / count[:, None]
    return CornerValues(keys, mean[:, 0], mean[:, 1:4], mean[:, 4:])


def _cubes_with_inside_corners(touched: CornerValues, resolution: int) -> Int[Tensor, "c 3"]:
    """The cubes that a surface can cross, in grid order: those with a corner inside. Other corners
    than the given ones are outside."""
    at = _places(touched.keys[touched.sdf < 0], resolution + 1)
    cubes = (at[:, None] - _corner_offsets(at.device)).flatten(0, 1)
    cubes = cubes[((cubes >= 0) & (cubes < resolution)).all(1)]
    return _places(torch.unique(_key(cubes, resolution)), resolution)


def _fill(touched: CornerValues, keys: Int[Tensor, "m"]) -> CornerValues:
    """The values at `keys`; sdf 1, no deformation and colour 0 where there are none."""
    row = KeyIndex(touched.keys).find(keys)
    outside = (1.0, 0.0, 0.0)
    parts = [
        torch.cat([part, part.new_full((1, *part.shape[1:]), default)])[row]
        for part, default in zip(touched[1:], outside, strict=True)
    ]
    return CornerValues(keys, *parts)


def _with_continued(touched: CornerValues, side: int) -> CornerValues:
    """With the untouched corners that a closed surface needs; they are not moved."""
    more = continued(_places(touched.keys, side + 1), touched.sdf, touched.colors)
    keys = torch.cat([touched.keys, _key(more.places, side + 1)])
    order = keys.argsort()
    deform = torch.cat([touched.deform, touched.deform.new_zeros(len(more.places), 3)])
    sdf, colors = torch.cat([touched.sdf, more.sdf]), torch.cat([touched.colors, more.attributes])
    return CornerValues(keys[order], sdf[order], deform[order], colors[order])


def _positions(corners: CornerValues, resolution: int, margin: int) -> Float[Tensor, "n 3"]:
    """Corners in the object's frame, each moved by at most half a voxel."""
    at = _places(corners.keys, resolution + 2 * margin + 1) - margin
    reach = (1 - 1e-8) / (2 * resolution)
    return at.float() / resolution - 0.5 + reach * torch.tanh(corners.deform)
