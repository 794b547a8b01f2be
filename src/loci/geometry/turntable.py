"""Turntable videos of an object or a scene."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from loci.geometry.camera import Camera, Size
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.render import Background, RenderOutput, render_gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh


@dataclass(frozen=True)
class TurntableConfig:
    """The camera's path.

    Attributes:
        frames: of one turn, a seamless loop.
        start: azimuth of the first frame in degrees, as in `Camera.orbit`.
        elevation: degrees above the horizon.
        fov: horizontal field of view in degrees.
        fill: radius of the bounding sphere over half the image.
    """

    frames: int = 60
    start: float = 0.0
    elevation: float = 20.0
    fov: float = 30.0
    fill: float = 0.9


def turntable(
    thing: Gaussians | Mesh,
    size: Size = 256,
    background: Background = 1.0,
    config: TurntableConfig | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
    """RGB frames of one turn around an object or a scene with z up."""
    config = config or TurntableConfig()
    center, radius = bounding_sphere(thing)
    half = math.radians(config.fov) / 2
    distance = max(radius, 1e-3) / (config.fill * math.sin(half))
    frames = []
    for frame in range(config.frames):
        azimuth = config.start + 360 * frame / config.frames
        camera = Camera.orbit(azimuth, config.elevation, distance, config.fov, center.tolist())
        frames.append(to_uint8(render(thing, camera, size, background)))
    return np.stack(frames)


@torch.no_grad()
def render(
    thing: Gaussians | Mesh, camera: Camera, size: Size, background: Background = 1.0
) -> RenderOutput:
    """Renders a mesh or Gaussians, without gradients."""
    if isinstance(thing, Mesh):
        return render_mesh(thing, camera, size, background)
    return render_gaussians(thing, camera, size, background)


def to_uint8(rendering: RenderOutput) -> UInt8[np.ndarray, "h w 3"]:
    """The colour as 8-bit RGB."""
    color = (rendering.color.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return color.permute(1, 2, 0).cpu().numpy()


def bounding_sphere(thing: Gaussians | Mesh) -> tuple[Tensor, float]:
    """Centre `[3]` and radius.

    Of Gaussians, the outermost 1 % along each axis is left out: strays are common.
    """
    points = thing.vertices if isinstance(thing, Mesh) else thing.positions
    points = points.detach().float()
    points = points[points.isfinite().all(1)]
    if len(points) == 0:
        return torch.zeros(3), 0.5
    ordered = points.sort(dim=0).values
    outliers = 0 if isinstance(thing, Mesh) else len(points) // 100
    low, high = ordered[outliers], ordered[len(points) - 1 - outliers]
    center = (low + high) / 2
    inner = ((points >= low) & (points <= high)).all(1)
    radius = (points[inner] - center).norm(dim=1).max() if inner.any() else (high - low).norm() / 2
    return center, float(radius)
