"""A picture with what is known of its geometry, checked, ready to be asked for its objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from loci.caching.spectral import MARGIN
from loci.errors import LociError
from loci.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from loci.io.images import read_mask, read_pixels
from loci.objects.asset import Asset
from loci.objects.inputs.pointmap import (
    NOMINAL_DISTANCE,
    NOMINAL_FOV,
    Frame,
    Placement,
    check_covers,
    fitted_fov,
    fitted_pointmap,
    nominal_pose,
    nominal_scene,
    read_pointmap,
)
from loci.objects.inputs.preprocess import structure_inputs
from loci.objects.pipeline import LifterConfig, LiftRequest, LiftResult
from loci.objects.placement.pose import Pose
from loci.objects.placement.refinement import Observation

LONGEST_TO_SHORTEST = 16
"""Pictures are padded to squares."""
SMALLEST = 3
"""Pixels across that a mask must have."""

Picture = str | Path | Image.Image | UInt8[np.ndarray, "h w 3"]
Mask = str | Path | Image.Image | NDArray[Any] | Tensor
Pointmap = str | Path | NDArray[Any] | Tensor


@dataclass(frozen=True)
class ObservedPicture:
    """What a camera saw.

    Attributes:
        pixels: RGB, uint8 `[h, w, 3]`.
        pointmap: x left, y up, z forward, `[3, h, w]`, NaN where unknown; or None.
        fov: horizontal field of view in degrees: given, or what the pointmap tells, or assumed.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    pointmap: Float[Tensor, "3 h w"] | None
    fov: float

    @cached_property
    def rgb(self) -> Float[Tensor, "3 h w"]:
        """The picture in [0, 1]; all its objects share it."""
        return torch.from_numpy(self.pixels.copy()).permute(2, 0, 1).float() / 255

    @classmethod
    def read(
        cls,
        image: Picture,
        pointmap: Pointmap | None = None,
        frame: Frame = "pytorch3d",
        fov: float | None = None,
    ) -> ObservedPicture:
        """Reads and checks picture and pointmap, see `Lifter.scene`.

        Raises:
            LociError: naming what is wrong with one of them.
        """
        pixels = read_pixels(image)
        height, width = pixels.shape[:2]
        if max(height, width) > LONGEST_TO_SHORTEST * min(height, width):
            raise LociError(
                f"picture: {width} x {height} pixels, expected at most {LONGEST_TO_SHORTEST} to 1"
            )
        if fov is not None and not 0 < fov < 180:
            raise LociError(f"field of view: {fov} degrees, expected more than 0 and less than 180")
        if pointmap is None:
            return cls(pixels, None, fov or NOMINAL_FOV)
        points = fitted_pointmap(read_pointmap(pointmap, frame, fov), height, width)
        return cls(pixels, points, fov or fitted_fov(points) or NOMINAL_FOV)

    def mask(self, mask: Mask, name: str = "mask") -> Bool[np.ndarray, "h w"]:
        """An object's mask, checked against the picture.

        Raises:
            LociError: naming the mask and what is wrong with it.
        """
        given = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
        inside = read_mask(given, name)
        named = str(mask) if isinstance(mask, str | Path) else name
        size, expected = inside.shape, self.pixels.shape[:2]
        if size != expected:
            raise LociError(
                f"{named}: {size[1]} x {size[0]}, expected {expected[1]} x {expected[0]} as the "
                "picture (upright, as its EXIF says)"
            )
        if max(int(np.ptp(places)) + 1 for places in np.nonzero(inside)) < SMALLEST:
            raise LociError(f"{named}: an object too small, expected {SMALLEST} pixels across")
        if self.pointmap is not None:
            check_covers(self.pointmap, torch.from_numpy(inside), named)
        return inside

    def subject(
        self, inside: Bool[np.ndarray, "h w"], name: str, seed: int, config: LifterConfig
    ) -> LiftRequest:
        """What the model is asked about the object inside a checked mask."""
        rgb = self.rgb
        mask = torch.from_numpy(inside)[None].float()
        inputs = structure_inputs(rgb, mask, self.pointmap, config.input_size)
        if self.pointmap is None:
            # It is lifted in the nominal scene.
            units = nominal_scene(mask)
            seen = Observation(mask[0] > 0.5, None, NOMINAL_FOV, NOMINAL_DISTANCE, rgb)
        else:
            units = inputs.normaliser
            seen = Observation(mask[0] > 0.5, self.pointmap, self.fov, rgb=rgb)
        return LiftRequest(name, inputs.tensors, units, seed, cutout(self.pixels, inside), seen)

    def asset(self, found: LiftResult) -> Asset:
        """The object that was found."""
        return Asset(
            pose=found.pose if self.pointmap is not None else _seen_with(found.pose, self.fov),
            voxels=found.choice.structure[:, 1:].long(),
            resolution=found.resolution,
            coarsening=found.choice.shrunk,
            gaussians=found.gaussians,
            mesh=found.mesh,
            fov=self.fov,
            nominal=self.pointmap is None,
        )


def _seen_with(pose: Pose, fov: float) -> Pose:
    """A pose of the nominal scene, as a camera of another field of view sees the same."""
    if fov == NOMINAL_FOV or pose.translation[0, 2] <= 0:
        return pose
    nominal = Placement(quaternion_to_matrix(pose.rotation), pose.translation, pose.scale[:, 0])
    seen = nominal_pose(nominal, pose.scale.new_tensor([NOMINAL_FOV]), nominal_fov=fov)
    scale = seen.scale[:, None].expand(-1, 3)
    return Pose(matrix_to_quaternion(seen.rotation), seen.translation, scale)


def cutout(
    pixels: UInt8[np.ndarray, "h w 3"], inside: Bool[np.ndarray, "h w"]
) -> UInt8[Tensor, "k l 4"]:
    """The picture around an object, the alpha channel its mask.

    The border is what `acceleration.spectral.picture_ratio` looks at around a mask, so that it
    finds the same in this part as in the whole picture.
    """
    part = tuple(
        slice(max(0, int(places.min()) - MARGIN), int(places.max()) + 1 + 2 * MARGIN)
        for places in np.nonzero(inside)
    )
    alpha = inside[part].astype(np.uint8)[:, :, None] * np.uint8(255)
    return torch.from_numpy(np.concatenate([pixels[part], alpha], axis=2))


def touches_edge(inside: Bool[np.ndarray, "h w"]) -> bool:
    """Whether the picture cuts the object off: what lies outside can only be guessed."""
    return bool(inside[[0, -1]].any() or inside[:, [0, -1]].any())


def mask_names(masks: list[Any]) -> list[str]:
    """What errors call them: their files, or their numbers."""
    numbered = len(masks) > 1
    return [
        str(mask) if isinstance(mask, str | Path) else f"mask {number}" if numbered else "mask"
        for number, mask in enumerate(masks, start=1)
    ]
