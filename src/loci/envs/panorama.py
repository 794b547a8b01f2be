"""A camera that turns on the spot in a 360-degree photograph: real pixels with exact revisits."""

import math

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional as F

from loci.actions import VIEWS
from loci.envs.base import EnvironmentInfo, MapPose
from loci.errors import LociError

LEFT, RIGHT = VIEWS.index("turn left"), VIEWS.index("turn right")
SUPERSAMPLING = 2
"""Rays a pixel and direction, averaged."""


class Panorama:
    """The `Environment` of one equirectangular photograph.

    Its camera turns left and right; it has no place to move to.

    Args:
        picture: equirectangular, twice as wide as high; its middle column is at heading 0.
        size: pixels a side of the frames.
        fov: horizontal field of view of the frames in degrees.
        turn: degrees that a frame turns.
        heading: at the start, in degrees, counter-clockwise.
        pitch: of the camera in degrees, up.

    Raises:
        LociError: when the picture is not twice as wide as high.
    """

    def __init__(
        self,
        picture: UInt8[np.ndarray, "h w 3"],
        size: int = 128,
        fov: float = 88.6915,
        turn: float = 7.5,
        heading: float = 0.0,
        pitch: float = 0.0,
    ) -> None:
        height, width = picture.shape[:2]
        if abs(width - 2 * height) > 2:
            raise LociError(
                f"picture of {width}x{height} pixels, expected a 360-degree photograph "
                "(equirectangular), twice as wide as high"
            )
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        # The first column again after the last, so that frames across the seam have none.
        self.pixels = torch.cat([pixels, pixels[..., :1]], dim=-1)
        self.info = EnvironmentInfo(
            "panorama",
            (size, size),
            fov_degrees=fov,
            move_units=12.0,
            turn_degrees=turn,
            cell_units=128.0,
        )
        self.heading = heading
        self._longitude, self._latitude = _rays(size * SUPERSAMPLING, fov, pitch)

    def frame(self) -> UInt8[np.ndarray, "h w 3"]:
        across = (self._longitude - self.heading / 360.0 + 0.5) % 1.0
        grid = torch.stack([across * 2 - 1, self._latitude * 2], dim=-1)[None]
        seen = F.grid_sample(self.pixels, grid, padding_mode="border", align_corners=True)
        seen = F.avg_pool2d(seen, SUPERSAMPLING)[0]
        return seen.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()

    def pose(self) -> MapPose:
        return 0.0, 0.0, self.heading

    def step(self, move: int, view: int) -> None:
        turn = self.info.turn_degrees
        if move or view not in (0, LEFT, RIGHT) or turn is None:
            raise LociError(f"action ({move}, {view}): in a panorama one can only turn")
        self.heading += {0: 0.0, LEFT: turn, RIGHT: -turn}[view]

    def close(self) -> None:
        pass


def _rays(size: int, fov: float, pitch: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the pixels of a frame look: turns to the right, and half turns down."""
    steps = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    half = math.tan(math.radians(fov) / 2)
    down, right = torch.meshgrid(steps * half, steps * half, indexing="ij")
    angle = math.radians(pitch)
    forward = math.cos(angle) + down * math.sin(angle)
    down = down * math.cos(angle) - math.sin(angle)
    longitude = torch.atan2(right, forward) / (2 * math.pi)
    latitude = torch.atan2(down, torch.hypot(right, forward)) / math.pi
    return longitude.float(), latitude.float()
