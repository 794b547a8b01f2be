"""Scenes: the objects of one picture, placed before its camera, and their files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from loci.geometry.camera import OPENGL, flip_axes
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.io import from_gltf_frame, write_glb, write_ply
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.placing import merge_gaussians, place_gaussians, place_mesh
from loci.objects.asset import Asset
from loci.objects.placement.ground import ground_factors, moved_away
from loci.objects.placement.pose import Pose

SCENE_SPLATS, SCENE_MESH = "scene.ply", "scene.glb"
MIN_GAUSSIAN_SIZE = 0.0009
"""Smallest standard deviation of the published Gaussian decoder."""


@dataclass(frozen=True)
class Scene:
    """The objects of a picture, in the order of their masks."""

    objects: tuple[Asset, ...]

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def gaussians(self) -> Gaussians | None:
        """The Gaussians of all objects in the camera frame; None if the objects have none."""
        placed = [
            place_gaussians(asset.gaussians, *unbatched(asset.pose), MIN_GAUSSIAN_SIZE)
            for asset in self.objects
            if asset.gaussians is not None
        ]
        return merge_gaussians(placed) if placed else None

    @property
    def meshes(self) -> dict[str, Mesh]:
        """In the camera frame, by name (`object-1`, ...)."""
        return {
            object_name(number): place_mesh(asset.mesh, *unbatched(asset.pose))
            for number, asset in enumerate(self.objects, start=1)
            if asset.mesh is not None
        }

    def grounded(self) -> Scene:
        """With the objects laid out as if all stood on one plane, which a picture without geometry
        leaves open: each is moved along its ray, and enlarged with its distance, so that it looks
        the same. Lengths are then in units of the first object's distance.

        An object whose lower end is seen above the horizon or close to it stays where it is, and
        its notes say so. Objects of known distance, and one object alone, are left as they are.
        """
        if len(self) < 2 or not all(asset.distance_assumed for asset in self.objects):
            return self
        factors = ground_factors(
            [asset.pose for asset in self.objects], [asset.centers() for asset in self.objects]
        )
        laid_out = []
        for number, (asset, factor) in enumerate(zip(self.objects, factors.tolist(), strict=True)):
            if math.isnan(factor):
                note = (
                    f"{object_name(number + 1)}: stands on no ground that the camera looks down on"
                )
                laid_out.append(replace(asset, notes=(*asset.notes, f"{note}; left at distance 1")))
            else:
                pose = moved_away(asset.pose, factor)
                laid_out.append(replace(asset, pose=pose, grounded=True))
        return Scene(tuple(laid_out))

    def export(self, folder: str | Path) -> list[Path]:
        """Write `scene.ply`, `scene.glb` with a node for each object, and a folder for each object;
        returns the paths.

        `scene.ply` is in the camera frame. `scene.glb` is in that of glTF cameras, which look along
        -z with x to the right: (x, y, z) of the camera frame is (-x, y, -z) there.

        Raises:
            LociError: as `Asset.export`.
        """
        folder = Path(folder)
        for number, asset in enumerate(self.objects, start=1):
            asset.check(object_name(number))
        written = []
        for number, asset in enumerate(self.objects, start=1):
            written += asset.export(folder / object_name(number))
        return [*written, *self.export_placed(folder)]

    def export_placed(self, folder: str | Path) -> list[Path]:
        """Write `scene.ply` and `scene.glb`, the objects where the camera saw them, in the units of
        their poses, and the camera as a node of `scene.glb`; returns the paths."""
        folder, written = Path(folder), []
        if (gaussians := self.gaussians) is not None:
            write_ply(folder / SCENE_SPLATS, gaussians)
            written.append(folder / SCENE_SPLATS)
        if meshes := self.meshes:
            converted = {
                name: replace(
                    mesh,
                    vertices=_before_gltf(mesh.vertices),
                    normals=None if mesh.normals is None else _before_gltf(mesh.normals),
                )
                for name, mesh in meshes.items()
            }
            write_glb(folder / SCENE_MESH, converted, self.gltf_camera())
            written.append(folder / SCENE_MESH)
        return written

    def gltf_camera(self) -> dict[str, Any] | None:
        """The picture's camera in glTF's terms, or None where the picture's size is not known."""
        first = self.objects[0]
        if first.size is None:
            return None
        aspect = first.size[1] / first.size[0]
        height = math.tan(math.radians(first.fov) / 2) / aspect
        lens = {"yfov": 2 * math.atan(height), "aspectRatio": aspect, "znear": 0.01}
        # glTF has no principal point.
        extras = {"principal_point": list(first.principal)}
        return {"name": "camera", "type": "perspective", "perspective": lens, "extras": extras}


def object_name(number: int) -> str:
    """The name of an object in files, counted from 1."""
    return f"object-{number}"


def unbatched(pose: Pose) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation, translation and scale of a batch of one, for `loci.geometry.placing`."""
    return pose.rotation[0], pose.translation[0], pose.scale[0]


def _before_gltf(points: Tensor) -> Tensor:
    """From the camera frame to the frame that `write_glb` turns into that of glTF cameras."""
    return from_gltf_frame(flip_axes(points, OPENGL))
