"""Several objects of one picture, each at its place.

A scene is in the camera frame: x left, y up, z forward, the camera at the origin.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from loci.geometry.camera import OPENGL, flip
from loci.geometry.gaussians import Gaussians
from loci.geometry.glb import from_gltf_frame, write_glb
from loci.geometry.mesh import Mesh
from loci.geometry.placing import merge_gaussians, place_gaussians, place_mesh
from loci.geometry.ply import write_splat
from loci.objects.asset import Asset
from loci.objects.pose import Pose

SCENE_SPLAT, SCENE_MESH = "scene.ply", "scene.glb"
SMALLEST = 0.0009
"""Standard deviation of the smallest Gaussian that the released decoder makes."""


@dataclass(frozen=True)
class Scene:
    """The objects of a picture, in the order of their masks."""

    objects: tuple[Asset, ...]

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def gaussians(self) -> Gaussians | None:
        """All of them in the camera frame; None if the objects have none."""
        placed = [
            place_gaussians(asset.gaussians, *placement(asset.pose), SMALLEST)
            for asset in self.objects
            if asset.gaussians is not None
        ]
        return merge_gaussians(placed) if placed else None

    @property
    def meshes(self) -> dict[str, Mesh]:
        """By name (`object-1`, ...), in the camera frame."""
        return {
            object_name(number): place_mesh(asset.mesh, *placement(asset.pose))
            for number, asset in enumerate(self.objects, start=1)
            if asset.mesh is not None
        }

    def export(self, folder: str | Path) -> list[Path]:
        """Writes `scene.ply` in the camera frame, `scene.glb` with a node for each object, and a
        folder for each; returns the paths.

        glTF looks along -z with x to the right: (x, y, z) of the camera frame is (-x, y, -z) there.

        Raises:
            LociError: as `Asset.export`.
        """
        folder = Path(folder)
        for number, asset in enumerate(self.objects, start=1):
            asset.check(object_name(number))
        written = []
        for number, asset in enumerate(self.objects, start=1):
            written += asset.export(folder / object_name(number))
        if (gaussians := self.gaussians) is not None:
            write_splat(folder / SCENE_SPLAT, gaussians)
            written.append(folder / SCENE_SPLAT)
        if meshes := self.meshes:
            upright = {
                name: replace(
                    mesh,
                    vertices=_before_gltf(mesh.vertices),
                    normals=None if mesh.normals is None else _before_gltf(mesh.normals),
                )
                for name, mesh in meshes.items()
            }
            write_glb(folder / SCENE_MESH, upright)
            written.append(folder / SCENE_MESH)
        return written


def object_name(number: int) -> str:
    """What an object is called in files; they are counted from 1."""
    return f"object-{number}"


def placement(pose: Pose) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation, translation and scale of a single pose, as `geometry.placing` takes them."""
    return pose.rotation[0], pose.translation[0], pose.scale[0]


def _before_gltf(points: Tensor) -> Tensor:
    """What the writer, which turns z up into y up, carries to glTF's camera frame."""
    return from_gltf_frame(flip(points, OPENGL))
