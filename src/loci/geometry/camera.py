"""Pinhole cameras in PyTorch3D's convention, and conversions to OpenCV's and OpenGL's.

World frames (an object's or a scene's) have z up. In the camera frame x points left, y up and z
forward; points are row vectors: `p_camera = p_world @ rotation + translation`. `fov` is the
field of view across the image's width for a principal point in its centre, which stands for the
focal length wherever the principal point is. The centre of pixel i lies at i + 0.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from loci.errors import LociError

OPENCV = (-1.0, -1.0, 1.0)
"""Signs from our camera frame to OpenCV's (x right, y down, z forward), and back."""
OPENGL = (-1.0, 1.0, -1.0)
"""Signs from our camera frame to OpenGL's, glTF's and Blender's (x right, y up, z backward)."""

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
"""Radians between successive points of a Fibonacci lattice on a sphere."""

CENTER = (0.5, 0.5)
"""The principal point of a picture that is not cropped, as shares of its width and height."""

Size = int | tuple[int, int]
"""Height and width of an image in pixels; one number for a square."""


@dataclass(frozen=True)
class Camera:
    """Pose, field of view and principal point of a pinhole camera.

    Attributes:
        rotation: `[3, 3]`; its columns are the camera's left, up and forward in the world.
        translation: the world's origin in the camera frame, `[3]`.
        fov: 2 atan(width / 2 / focal length) in degrees, in (0, 180).
        principal: where the optical axis meets the image, as shares of its width (from the left)
            and height (from the top); outside of [0, 1] it is outside the image.
    """

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    fov: float
    principal: tuple[float, float] = CENTER

    def __post_init__(self) -> None:
        if not 0 < self.fov < 180:
            raise LociError(
                f"a field of view of {self.fov} degrees, expected more than 0 and < 180"
            )

    @property
    def eye(self) -> Float[Tensor, "3"]:
        """The camera's position in the world."""
        return -self.translation @ self.rotation.T

    def to(self, like: Tensor) -> "Camera":
        """The same camera with the dtype and on the device of `like`."""
        return replace(self, rotation=self.rotation.to(like), translation=self.translation.to(like))

    def view(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """World points in the camera frame."""
        return points @ self.rotation + self.translation

    def focal(self, size: Size) -> float:
        """Focal length in pixels, the same along both axes."""
        return height_width(size)[1] / (2 * math.tan(math.radians(self.fov) / 2))

    def principal_point(self, size: Size) -> tuple[float, float]:
        """The principal point in pixels: column and row."""
        height, width = height_width(size)
        return self.principal[0] * width, self.principal[1] * height

    def project(self, points: Float[Tensor, "*n 3"], size: Size) -> Float[Tensor, "*n 3"]:
        """World points as x and y in pixels (x right, y down) and depth z."""
        x, y, z = self.view(points).unbind(-1)
        focal, (column, row) = self.focal(size), self.principal_point(size)
        return torch.stack([column - focal * x / z, row - focal * y / z, z], dim=-1)

    def unproject(self, depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
        """A depth map (z) as a pointmap: points in the camera frame."""
        height, width = depth.shape
        focal, (column, row) = self.focal((height, width)), self.principal_point((height, width))
        y = (row - 0.5 - torch.arange(height).to(depth)) / focal
        x = (column - 0.5 - torch.arange(width).to(depth)) / focal
        return torch.stack([x * depth, y[:, None] * depth, depth], dim=-1)

    def intrinsics(self, size: Size) -> Float[Tensor, "3 3"]:
        """OpenCV's camera matrix."""
        focal, (column, row) = self.focal(size), self.principal_point(size)
        rows = [[focal, 0, column], [0, focal, row], [0, 0, 1]]
        return torch.tensor(rows).to(self.rotation)

    @classmethod
    def identity(cls, fov: float, principal: tuple[float, float] = CENTER) -> "Camera":
        """A camera whose frame is the world frame."""
        return cls(torch.eye(3), torch.zeros(3), fov, principal)

    @classmethod
    def from_pose(
        cls,
        rotation: Float[Tensor, "3 3"],
        translation: Float[Tensor, "3"],
        scale: float | Tensor,
        fov: float,
        principal: tuple[float, float] = CENTER,
    ) -> "Camera":
        """The camera, in the object's frame and units, that sees an object with the pose
        `p_camera = (p_object * scale) @ rotation + translation`.

        Depths are in the object's units: multiply by `scale` (one number, or three equal ones) for
        those of the pose.
        """
        one = torch.as_tensor(scale).to(translation).reshape(-1)[0]
        return cls(rotation, translation / one, fov, principal)

    @classmethod
    def orbit(
        cls,
        azimuth: float,
        elevation: float,
        distance: float,
        fov: float,
        target: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> "Camera":
        """An upright camera on a sphere around `target`, looking at it.

        Args:
            azimuth: degrees; 0 is in front of the object (-y), 90 on its right (+x).
            elevation: degrees above the horizon; in (-90, 90).
            distance: from the target, in world units.
            fov: horizontal field of view in degrees.
            target: a world point.
        """
        a, e = math.radians(azimuth), math.radians(elevation)
        towards = (-math.cos(e) * math.sin(a), math.cos(e) * math.cos(a), -math.sin(e))
        left = (-math.cos(a), -math.sin(a), 0.0)
        up = (-math.sin(e) * math.sin(a), math.sin(e) * math.cos(a), math.cos(e))
        rotation = torch.tensor([left, up, towards]).T
        translation = torch.tensor([0.0, 0.0, distance]) - torch.tensor(target) @ rotation
        return cls(rotation, translation, fov)

    @classmethod
    def on_sphere(cls, count: int, distance: float, fov: float) -> "list[Camera]":
        """`count` cameras evenly on a sphere, looking at its centre (the origin); as `orbit`."""
        cameras = []
        for number in range(count):
            elevation = math.degrees(math.asin(1 - (2 * number + 1) / count))
            azimuth = math.degrees(GOLDEN_ANGLE * number) % 360
            cameras.append(cls.orbit(azimuth, elevation, distance, fov))
        return cameras

    def to_opencv(self) -> Float[Tensor, "4 4"]:
        """OpenCV's world-to-camera matrix for column vectors."""
        matrix = torch.eye(4).to(self.rotation)
        matrix[:3, :3] = flip_axes(self.rotation, OPENCV).T
        matrix[:3, 3] = flip_axes(self.translation, OPENCV)
        return matrix


def height_width(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def flip_axes(
    points: Float[Tensor, "*n 3"], signs: tuple[float, float, float]
) -> Float[Tensor, "*n 3"]:
    """Points of our camera frame in OpenCV's or OpenGL's (`OPENCV`, `OPENGL`), and back.

    Depth networks give pointmaps in OpenCV's frame.
    """
    return points * points.new_tensor(signs)
