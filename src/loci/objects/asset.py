"""Lifted objects: Gaussians, mesh, voxels and pose, and their files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.errors import LociError
from loci.geometry.camera import CENTER, OPENCV, OPENGL, Camera, flip_axes
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.render import RenderOutput, render_gaussians
from loci.geometry.io import (
    from_gltf_frame,
    to_gltf_frame,
    write_glb,
    write_obj,
    write_ply,
    write_splat,
)
from loci.geometry.mesh.bake import BakeConfig, bake_texture
from loci.geometry.mesh.closing import closed_mesh
from loci.geometry.mesh.hidden_faces import remove_hidden_faces
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh
from loci.geometry.mesh.simplify import decimate, fill_holes
from loci.geometry.placing import turn_gaussians
from loci.geometry.rotations import quaternion_to_matrix
from loci.geometry.voxels import voxel_centers
from loci.io.files import write_whole
from loci.objects.costs import StageCost
from loci.objects.inputs.observation import ObservedPicture
from loci.objects.inputs.pointmap import ASSUMED_DISTANCE
from loci.objects.photo import paint
from loci.objects.pipeline import LiftResult
from loci.objects.placement.pose import Pose, pose_for_camera

SPLATS, MESH, POSE = "splat.ply", "mesh.glb", "pose.json"
FILES = (".ply", ".splat", ".glb", ".obj")
"""Suffixes of single files: splats or the mesh, each in one of two formats."""
WEB = ("web.ply", "web.splat")
Up = Literal["y-up", "y-down"]
"""Frames of web viewers: y up as in mesh.glb, or y down and z away from its front."""

MIN_TEXTURE_SIZE = 16
MAX_VIEW_SIZE = 512
"""Pixels on a side of the views from which a texture is baked."""

CONVENTION = {
    "convention": "row vectors: p_camera = (p_object * scale) @ rotation_matrix + translation",
    "object_frame": "z up, in [-0.5, 0.5]^3; splat.ply is in it",
    "camera_frame": "x left, y up, z forward, the camera at the origin (PyTorch3D)",
    "principal_point_units": "shares of the picture's width and height, from the top left corner",
    "quaternion": "q = (w, x, y, z): conj(q) p q is p @ rotation_matrix, with p a row vector",
    "matrices": "4x4 for column vectors, from mesh.glb to a camera: x right, y down, z forward "
    "(OpenCV), or x right, y up, z backward (OpenGL, glTF, Blender), as in scene.glb",
    "mesh_file": "mesh.glb is y up as glTF wants: its (x, y, z) is (x, -z, y) in the object frame",
}
POINTMAP_UNITS = "the units of the pointmap"
ASSUMED_UNITS = (
    f"the object's distance, which without a pointmap is unknown and set to {ASSUMED_DISTANCE:g}"
)

GROUND_UNITS = (
    "the distance of the first object that stands on the ground, which is unknown; the objects are "
    "laid out as if all stood on one plane"
)


@dataclass(frozen=True)
class Asset:
    """An object in its own frame (z up, in [-0.5, 0.5]^3), and its pose.

    Attributes:
        pose: object to camera, a batch of one.
        voxels: x, y, z of the occupied voxels of stage 1 in a grid of `resolution`, `[n, 3]`.
        resolution: voxels along the side of the grid, which fills [-0.5, 0.5]^3.
        downsample_factor: by which the object shrank in its grid to limit the number of voxels;
            the pose's scale includes it.
        gaussians: None if they were not decoded.
        mesh: None if it was not decoded.
        fov: horizontal field of view in degrees of the camera that the pose refers to.
        distance_assumed: whether the object's distance is assumed, because there was no pointmap.
        principal: the camera's principal point, as shares of the picture's width and height.
        size: height and width of the picture in pixels, or None.
        notes: what is worth knowing about the result.
        grounded: whether it was laid out with others on one plane (`Scene.grounded`).
        costs: seconds and peak memory of every stage of the run, shared by all its objects.
    """

    pose: Pose
    voxels: Int[Tensor, "n 3"]
    resolution: int
    downsample_factor: float
    gaussians: Gaussians | None
    mesh: Mesh | None
    fov: float
    distance_assumed: bool
    costs: tuple[StageCost, ...] = ()
    principal: tuple[float, float] = CENTER
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    grounded: bool = False

    @classmethod
    def from_result(cls, picture: ObservedPicture, result: LiftResult) -> Asset:
        """A result of the pipeline, its pose for the picture's camera."""
        distance_assumed, pose = picture.pointmap is None, result.pose
        if distance_assumed:
            height, width = picture.pixels.shape[:2]
            pose = pose_for_camera(pose, picture.fov, picture.principal, height / width)
        return cls(
            pose=pose,
            voxels=result.choice.structure[:, 1:].long(),
            resolution=result.resolution,
            downsample_factor=result.choice.downsample_factor,
            gaussians=result.gaussians,
            mesh=result.mesh,
            fov=picture.fov,
            distance_assumed=distance_assumed,
            principal=picture.principal,
            size=(picture.pixels.shape[0], picture.pixels.shape[1]),
        )

    @property
    def camera(self) -> Camera:
        """The picture's camera in the object's frame and units."""
        rotation = quaternion_to_matrix(self.pose.rotation)[0]
        translation, scale = self.pose.translation[0], self.pose.scale[0]
        return Camera.from_pose(rotation, translation, scale, self.fov, self.principal)

    def closed(self) -> Asset:
        """With a mesh, if there is one, without border: for printing and physics."""
        return self if self.mesh is None else replace(self, mesh=closed_mesh(self.mesh))

    def painted(self, pixels: Tensor, inside: Tensor, name: str = "object") -> Asset:
        """In the colours of the picture where its camera saw the object, as lit there.

        Args:
            pixels: of the picture, uint8 `[h, w, 3]`.
            inside: the object's mask, `[h, w]`.
            name: for the note that the pose does not fit the mask, and nothing was painted.
        """
        gaussians, mesh, iou = paint(self.camera, self.gaussians, self.mesh, pixels, inside)
        if gaussians is self.gaussians and mesh is self.mesh:
            note = f"{name}: covers its mask too little (IoU {iou:.2f}) for the picture's colours"
            return replace(self, notes=(*self.notes, note))
        return replace(self, gaussians=gaussians, mesh=mesh)

    def matrices(self) -> dict[str, Any]:
        """4x4 matrices for column vectors, from mesh.glb's frame to those of cameras."""
        rotation = quaternion_to_matrix(self.pose.rotation)[0]
        to_object = from_gltf_frame(torch.eye(3).to(rotation))  # of row vectors
        linear = to_object @ (self.pose.scale[0][:, None] * rotation)
        found = {}
        for name, signs in (("glb_to_opencv", OPENCV), ("glb_to_opengl", OPENGL)):
            matrix = torch.eye(4).to(rotation)
            matrix[:3, :3] = flip_axes(linear, signs).T
            matrix[:3, 3] = flip_axes(self.pose.translation[0], signs)
            found[name] = _listed(matrix)
        return found

    def centers(self) -> Float[Tensor, "n 3"]:
        """Centres of the voxels in the object frame."""
        return voxel_centers(self.voxels, self.resolution)

    def pose_record(self) -> dict[str, Any]:
        """The content of `pose.json`: the pose with its convention and units."""
        return {
            "rotation": _listed(self.pose.rotation[0]),
            "rotation_matrix": _listed(quaternion_to_matrix(self.pose.rotation)[0]),
            "translation": _listed(self.pose.translation[0]),
            "scale": _listed(self.pose.scale[0]),
            "units": self._units(),
            "horizontal_fov_degrees": self.fov,
            "principal_point": list(self.principal),
            **self.matrices(),
            **CONVENTION,
        }

    def _units(self) -> str:
        if self.grounded:
            return GROUND_UNITS
        return ASSUMED_UNITS if self.distance_assumed else POINTMAP_UNITS

    def cleaned(self, closed: bool = True) -> Asset:
        """With the hidden faces of the mesh removed and all holes (or small ones) filled.

        Raises:
            LociError: without a mesh, for one with a texture, or when a package is missing.
        """
        cleaned = fill_holes(remove_hidden_faces(self._mesh()))
        return replace(self, mesh=closed_mesh(cleaned) if closed else cleaned)

    def simplified(self, faces: int, closed: bool = True) -> Asset:
        """With all holes (or small ones) filled and the mesh decimated to about `faces` faces; its
        colours are kept.

        Raises:
            LociError: without a mesh, for one with a texture, for fewer than 4 faces, or when a
                package is missing.
        """
        fewer = decimate(fill_holes(self._mesh()), faces)
        return replace(self, mesh=closed_mesh(fewer) if closed else fewer)

    def textured(self, side: int = 1024) -> Asset:
        """With a texture of `side` x `side` pixels in place of vertex colours; fills small holes.

        The texture is baked from renders of the Gaussians, or of the mesh if there are none.

        Raises:
            LociError: without a mesh, for one with a texture, for fewer than 16 pixels, or when a
                package is missing.
        """
        if side < MIN_TEXTURE_SIZE:
            raise LociError(f"texture: {side} pixels, expected at least {MIN_TEXTURE_SIZE}")
        mesh, gaussians = fill_holes(self._mesh()), self.gaussians

        def view(camera: Camera, size: int) -> RenderOutput:
            if gaussians is not None:
                return render_gaussians(gaussians, camera, size)
            return render_mesh(mesh, camera, size, light=None)

        config = BakeConfig(side, pixels=min(side, MAX_VIEW_SIZE))
        return replace(self, mesh=bake_texture(mesh, view, config))

    def _mesh(self) -> Mesh:
        """The mesh, if it can be simplified and textured."""
        self.check()
        if self.mesh is None:
            raise LociError("the object has no mesh, expected one to simplify or to texture")
        if self.mesh.texture is not None:
            raise LociError("the mesh has a texture already: simplify first, and texture once")
        return self.mesh

    def export(self, path: str | Path) -> list[Path]:
        """Write the object to a folder, or its splats or mesh to one file; returns the paths.

        A folder gets `splat.ply`, `mesh.glb` (with its texture or vertex colours) and `pose.json`.
        A path that ends in .ply gets the splats, one in .splat the splats with y up, one in .glb
        or .obj the mesh (y up; .obj always with vertex colours). Each file is
        written whole or not at all.

        Raises:
            LociError: when a file cannot be written, or would be empty or not finite.
        """
        self.check()
        folder = Path(path)
        if folder.suffix.lower() in FILES:
            self._write_one(folder)
            return [folder]
        written = []
        if self.gaussians is not None:
            self._write_one(folder / SPLATS)
            written.append(folder / SPLATS)
        if self.mesh is not None:
            self._write_one(folder / MESH)
            written.append(folder / MESH)
        write_json(folder / POSE, self.pose_record())
        return [*written, folder / POSE]

    def export_web(self, folder: str | Path, up: Up = "y-up") -> list[Path]:
        """Write `web.ply` and `web.splat` in the frame of a web viewer; returns the paths.

        Args:
            folder: to write to.
            up: y-up has the axes of `mesh.glb`; y-down is that, half a turn about x, as viewers
                expect it that take scenes by COLMAP.

        Raises:
            LociError: without splats, or when a file cannot be written.
        """
        self.check()
        if self.gaussians is None:
            raise LociError(f"{folder}: the object has no splats, expected some for web viewers")
        turned, paths = _web_frame(self.gaussians, up), [Path(folder) / name for name in WEB]
        for path, write in zip(paths, (write_ply, write_splat), strict=True):
            write(path, turned)
        return paths

    def _write_one(self, path: Path) -> None:
        match path.suffix.lower(), self.gaussians, self.mesh:
            case ".ply", Gaussians() as gaussians, _:
                write_ply(path, gaussians)
            case ".splat", Gaussians() as gaussians, _:
                write_splat(path, _web_frame(gaussians, "y-up"))
            case ".glb", _, Mesh() as mesh:
                write_glb(path, {"object": mesh})
            case ".obj", _, Mesh() as mesh:
                write_obj(path, mesh)
            case kind, _, _:
                part = "splats" if kind in (".ply", ".splat") else "mesh"
                raise LociError(f"{path}: the object has no {part}, expected one to write")

    def check(self, name: str = "object") -> None:
        """Raises LociError, with this name for the object, if it is empty or not finite."""
        if self.gaussians is not None:
            finite = [bool(part.isfinite().all()) for part in vars(self.gaussians).values()]
            if not all(finite):
                raise LociError(f"{name}: Gaussians that are not finite, expected numbers")
        if self.mesh is not None and not len(self.mesh.faces):
            raise LociError(f"{name}: its mesh has no faces, expected a surface")
        if not all(bool(part.isfinite().all()) for part in self.pose):
            raise LociError(f"{name}: its pose is not finite, expected numbers")


def _web_frame(gaussians: Gaussians, up: Up) -> Gaussians:
    axes = to_gltf_frame(torch.eye(3))
    return turn_gaussians(gaussians, axes if up == "y-up" else axes * torch.tensor([1.0, -1, -1]))


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def _listed(values: Tensor) -> Any:
    return values.detach().cpu().to(torch.float64).tolist()
