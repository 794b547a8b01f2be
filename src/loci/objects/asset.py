"""What comes out of a picture: an object's splats, mesh, voxels and pose."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.errors import LociError
from loci.geometry.camera import OPENGL, Camera, flip_axes
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.render import Rendering, render_gaussians
from loci.geometry.io import from_gltf_frame, write_glb, write_obj, write_ply
from loci.geometry.mesh.bake import BakeConfig, bake_texture
from loci.geometry.mesh.hidden_faces import remove_hidden_faces
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh
from loci.geometry.mesh.simplify import decimate, fill_holes
from loci.geometry.placing import merge_gaussians, place_gaussians, place_mesh
from loci.geometry.rotations import quaternion_to_matrix
from loci.io.files import write_whole
from loci.objects.costs import StageCost
from loci.objects.inputs.pointmap import NOMINAL_DISTANCE
from loci.objects.placement.pose import Pose

SPLAT, MESH, POSE = "splat.ply", "mesh.glb", "pose.json"
FILES = (".ply", ".glb", ".obj")
"""What a path ends in when one file is wanted: splats, or the mesh in one of two formats."""

MIN_TEXTURE = 16
PIXELS = 512
"""Most pixels on a side of the views that a texture is made from."""

CONVENTION = {
    "convention": "row vectors: p_camera = (p_object * scale) @ rotation_matrix + translation",
    "object_frame": "z up, in [-0.5, 0.5]^3; splat.ply is in it",
    "camera_frame": "x left, y up, z forward, the camera at the origin (PyTorch3D)",
    "quaternion": "w, x, y, z of rotation_matrix as a turn of column vectors",
    "mesh_file": "mesh.glb is y up as glTF wants: its (x, y, z) is (x, -z, y) in the object frame",
}
OWN_UNITS = "the units of the pointmap"
NOMINAL_UNITS = (
    f"the object's distance: without a pointmap it is assumed to be {NOMINAL_DISTANCE:g}; all "
    "lengths may be multiplied by one number"
)


@dataclass(frozen=True)
class Asset:
    """An object in its own frame (z up, about [-0.5, 0.5]^3), and where it stands.

    Attributes:
        pose: object to camera, a batch of one.
        voxels: x, y, z of the occupied voxels in a grid of `resolution`, `[n, 3]`; as they were
            found, also where the object was decoded on fewer (`acceleration.aggregation`).
        resolution: voxels along the side of the grid, which is the cube [-0.5, 0.5]^3.
        coarsening: how many times smaller than its grid says the object was drawn to keep the
            voxels few; the pose's scale makes up for it.
        gaussians: None if the model has no Gaussian decoder, or it was not asked.
        mesh: likewise.
        fov: horizontal field of view in degrees of the camera that sees the pose.
        nominal: whether the distance to the object was assumed, for want of a pointmap.
        costs: seconds and peak memory of every stage of the run, shared by all its objects.
    """

    pose: Pose
    voxels: Int[Tensor, "n 3"]
    resolution: int
    coarsening: float
    gaussians: Gaussians | None
    mesh: Mesh | None
    fov: float
    nominal: bool
    costs: tuple[StageCost, ...] = ()

    def centres(self) -> Float[Tensor, "n 3"]:
        """The middles of the voxels in the object's frame."""
        return (self.voxels.float() + 0.5) / self.resolution - 0.5

    def pose_record(self) -> dict[str, Any]:
        """The pose with its convention and units, as `pose.json` holds it."""
        return {
            "rotation": _listed(self.pose.rotation[0]),
            "rotation_matrix": _listed(quaternion_to_matrix(self.pose.rotation)[0]),
            "translation": _listed(self.pose.translation[0]),
            "scale": _listed(self.pose.scale[0]),
            "units": NOMINAL_UNITS if self.nominal else OWN_UNITS,
            "horizontal_fov_degrees": self.fov,
            **CONVENTION,
        }

    def cleaned(self) -> "Asset":
        """Without the faces of the mesh that nobody can see, and with its small holes closed.

        Raises:
            LociError: when there is no mesh or it has a texture, or when a package is missing.
        """
        return replace(self, mesh=fill_holes(remove_hidden_faces(self._mesh())))

    def simplified(self, faces: int) -> "Asset":
        """With holes closed and about so many faces in the mesh, its colours kept.

        Raises:
            LociError: when there is no mesh or it has a texture, for fewer than 4 faces, or when
                a package is missing.
        """
        return replace(self, mesh=decimate(fill_holes(self._mesh()), faces))

    def textured(self, side: int = 1024) -> "Asset":
        """With a texture of `side` pixels on the mesh instead of colours at its vertices: what the
        Gaussians look like from all around, or the mesh where there are none. Small holes are
        closed.

        Raises:
            LociError: when there is no mesh or it has a texture, for fewer than 16 pixels, or when
                a package is missing.
        """
        if side < MIN_TEXTURE:
            raise LociError(f"a texture of {side} pixels, expected at least {MIN_TEXTURE}")
        mesh, gaussians = fill_holes(self._mesh()), self.gaussians

        def look(camera: Camera, size: int) -> Rendering:
            if gaussians is not None:
                return render_gaussians(gaussians, camera, size)
            return render_mesh(mesh, camera, size, light=None)

        return replace(self, mesh=bake_texture(mesh, look, BakeConfig(side, pixels=min(side, PIXELS))))

    def _mesh(self) -> Mesh:
        """What can be simplified and textured: whole, finite, and not yet cut along its charts."""
        self.check()
        if self.mesh is None:
            raise LociError("the object has no mesh, expected one to work on")
        if self.mesh.texture is not None:
            raise LociError("the mesh has a texture already: simplify first, and texture once")
        return self.mesh

    def export(self, path: str | Path) -> list[Path]:
        """Writes the object into a folder, or a part of it into one file; returns the paths.

        A folder gets `splat.ply`, `mesh.glb` (with its texture, or vertex colours) and
        `pose.json`. A path that ends in .ply becomes the splats alone, one in .glb or .obj the
        mesh alone (y up; an .obj has vertex colours in any case). Each file is written whole or
        not at all; folders are made if need be.

        Raises:
            LociError: when one cannot be written, or holds nothing or numbers that are not finite.
        """
        self.check()
        folder = Path(path)
        if folder.suffix.lower() in FILES:
            self._write_one(folder)
            return [folder]
        written = []
        if self.gaussians is not None:
            self._write_one(folder / SPLAT)
            written.append(folder / SPLAT)
        if self.mesh is not None:
            self._write_one(folder / MESH)
            written.append(folder / MESH)
        write_json(folder / POSE, self.pose_record())
        return [*written, folder / POSE]

    def _write_one(self, path: Path) -> None:
        match path.suffix.lower(), self.gaussians, self.mesh:
            case ".ply", Gaussians() as gaussians, _:
                write_ply(path, gaussians)
            case ".glb", _, Mesh() as mesh:
                write_glb(path, {"object": mesh})
            case ".obj", _, Mesh() as mesh:
                write_obj(path, mesh)
            case kind, _, _:
                part = "splats" if kind == ".ply" else "mesh"
                raise LociError(f"{path}: the object has no {part}, expected one to write")

    def check(self, name: str = "object") -> None:
        """Raises LociError when there is nothing to write, or not a finite number."""
        if self.gaussians is not None:
            fine = [bool(part.isfinite().all()) for part in vars(self.gaussians).values()]
            if not all(fine):
                raise LociError(f"{name}: Gaussians that are not finite, expected numbers")
        if self.mesh is not None and not len(self.mesh.faces):
            raise LociError(f"{name}: its mesh has no faces, expected a surface")
        if not all(bool(part.isfinite().all()) for part in self.pose):
            raise LociError(f"{name}: its pose is not finite, expected numbers")


def write_json(path: Path, content: Any) -> None:
    """Readable JSON, all or nothing."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def _listed(values: Tensor) -> Any:
    return values.detach().cpu().to(torch.float64).tolist()


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
            write_ply(folder / SCENE_SPLAT, gaussians)
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
    return from_gltf_frame(flip_axes(points, OPENGL))
