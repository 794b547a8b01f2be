"""Previews of lifted objects: beside the picture, in their place in it, and from all sides."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image

from loci.geometry.camera import Camera
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.placing import merge_meshes
from loci.geometry.turntable import TurntableConfig, render, to_uint8, turntable
from loci.io.video import contact_sheet
from loci.objects.asset import Asset
from loci.objects.scene import Scene

TILE = 224
SIDES = ("front", "right", "back", "left")
FRAMES = 48
PREVIEW_VIEWS = 1 + len(SIDES)
"""Times that an object is drawn in its preview."""
DIM = 0.35
"""Brightness of the picture around an object."""

Pixels = UInt8[np.ndarray, "h w 3"]
Inside = Bool[np.ndarray, "h w"]


def object_preview(asset: Asset, pixels: Pixels, mask: Inside) -> Image.Image:
    """The picture with all but the object dimmed, the object in its place, and its four sides."""
    placed = _in_place(_renderable(asset), asset.camera, pixels)
    sides = turntable(_renderable(asset), TILE, 1.0, TurntableConfig(frames=len(SIDES)))
    tiles = [_tile(_masked(pixels, mask)), _tile(placed), *sides]
    return contact_sheet(np.stack(tiles), ["picture", "in its place", *SIDES], columns=3)


def scene_preview(scene: Scene, pixels: Pixels, masks: list[Inside]) -> Image.Image:
    """The picture with all but the objects dimmed, and the objects in their places."""
    shape = scene.gaussians or merge_meshes(list(scene.meshes.values()))
    first = scene.objects[0]
    placed = _in_place(shape, Camera.identity(first.fov, first.principal), pixels)
    tiles = [_tile(_masked(pixels, np.any(masks, axis=0))), _tile(placed)]
    return contact_sheet(np.stack(tiles), ["picture", "in place"], columns=2)


def object_turntable(asset: Asset, side: int, frames: int = FRAMES) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames of one turn around the object, on white."""
    return turntable(_renderable(asset), side, 1.0, TurntableConfig(frames=frames))


def _renderable(asset: Asset) -> Gaussians | Mesh:
    """The splats of an object if it has any, else its mesh."""
    if asset.gaussians is not None:
        return asset.gaussians
    assert asset.mesh is not None, "an asset has splats or a mesh"
    return asset.mesh


def _in_place(shape: Gaussians | Mesh, camera: Camera, pixels: Pixels) -> Pixels:
    """Drawn over the dimmed picture, as its camera sees it."""
    small = _shrink(pixels)
    background = torch.from_numpy(small.copy()).permute(2, 0, 1).float() / 255 * DIM
    return to_uint8(render(shape, camera, small.shape[:2], background))


def _masked(pixels: Pixels, mask: Inside) -> Pixels:
    return np.where(mask[:, :, None], pixels, (pixels * DIM).astype(np.uint8))


def _shrink(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _tile(pixels: Pixels) -> Pixels:
    """The pixels, shrunk, in the middle of a white square."""
    small = Image.fromarray(_shrink(pixels))
    tile = Image.new("RGB", (TILE, TILE), "white")
    place: Any = ((TILE - small.width) // 2, (TILE - small.height) // 2)
    tile.paste(small, place)
    return np.asarray(tile)
