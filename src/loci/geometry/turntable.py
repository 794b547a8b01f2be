"""An object going round: frames of a small film."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from loci.geometry.camera import Camera, Size
from loci.geometry.gaussians.gaussians import Gaussians
from loci.geometry.gaussians.render import Background, Rendering, render_gaussians
from loci.geometry.mesh.mesh import Mesh
from loci.geometry.mesh.render import render_mesh


@dataclass(frozen=True)
class TurntableConfig:
    """How the camera goes round.

    Attributes:
        frames: of one turn; the last leads back to the first.
        start: azimuth of the first frame in degrees, counted as in `Camera.orbit`.
        elevation: degrees above the horizon.
        fov: horizontal field of view in degrees.
        margin: the object's reach is this part of half the picture.
    """

    frames: int = 60
    start: float = 0.0
    elevation: float = 20.0
    fov: float = 30.0
    margin: float = 0.9


def turntable(
    thing: Gaussians | Mesh,
    size: Size = 256,
    background: Background = 1.0,
    config: TurntableConfig | None = None,
) -> UInt8[np.ndarray, "t h w 3"]:
    """RGB frames of one turn around an object or a scene whose z is up, as a video takes them."""
    config = config or TurntableConfig()
    middle, radius = bounding_sphere(thing)
    half = math.radians(config.fov) / 2
    distance = max(radius, 1e-3) / (config.margin * math.sin(half))
    frames = []
    for frame in range(config.frames):
        azimuth = config.start + 360 * frame / config.frames
        camera = Camera.orbit(azimuth, config.elevation, distance, config.fov, middle.tolist())
        frames.append(to_uint8(render(thing, camera, size, background)))
    return np.stack(frames)


@torch.no_grad()
def render(
    thing: Gaussians | Mesh, camera: Camera, size: Size, background: Background = 1.0
) -> Rendering:
    """A picture of either kind, without gradients."""
    if isinstance(thing, Mesh):
        return render_mesh(thing, camera, size, background)
    return render_gaussians(thing, camera, size, background)


def to_uint8(rendering: Rendering) -> UInt8[np.ndarray, "h w 3"]:
    """The colour as a picture of bytes."""
    colour = (rendering.colour.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return colour.permute(1, 2, 0).cpu().numpy()


def bounding_sphere(thing: Gaussians | Mesh) -> tuple[Tensor, float]:
    """The middle of what is there, `[3]`, and how far it reaches from it.

    Of Gaussians, the outermost hundredth along each axis does not count: strays are common.
    """
    points = thing.vertices if isinstance(thing, Mesh) else thing.positions
    points = points.detach().float()
    points = points[points.isfinite().all(1)]
    if len(points) == 0:
        return torch.zeros(3), 0.5
    ordered = points.sort(dim=0).values
    strays = 0 if isinstance(thing, Mesh) else len(points) // 100
    low, high = ordered[strays], ordered[len(points) - 1 - strays]
    middle = (low + high) / 2
    inner = ((points >= low) & (points <= high)).all(1)
    radius = (points[inner] - middle).norm(dim=1).max() if inner.any() else (high - low).norm() / 2
    return middle, float(radius)
