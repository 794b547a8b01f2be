"""A picture and what is known of its geometry, read and checked; one request per object in it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from loci.acceleration.spectral import MARGIN
from loci.errors import LociError
from loci.geometry.camera import CENTER
from loci.io.files import shown
from loci.io.images import LIFT_ASPECT_RATIO, check_aspect, read_pixels
from loci.io.intrinsics import read_intrinsics
from loci.objects.inputs.cleaning import check_mask
from loci.objects.inputs.masks import read_alpha, read_mask
from loci.objects.inputs.pointmap import (
    ASSUMED_DISTANCE,
    ASSUMED_FOV,
    DEPTH_SCALE,
    Normalizer,
    PointmapFrame,
    canonical_normalizer,
    check_covers,
    fitted_fov,
    fitted_pointmap,
    fitted_principal,
    read_pointmap,
)
from loci.objects.inputs.preprocess import around_principal, structure_inputs

Picture = str | Path | Image.Image | UInt8[np.ndarray, "h w 3"] | Tensor
Mask = str | Path | Image.Image | NDArray[Any] | Tensor | Mapping[str, Any]
Pointmap = str | Path | NDArray[Any] | Tensor


class Observation(NamedTuple):
    """What a picture shows of one object.

    Attributes:
        mask: of the whole picture.
        pointmap: in the camera frame x left, y up, z forward, NaN where unknown; or None.
        fov: horizontal field of view of the picture in degrees.
        distance: the depth of the object's centre if it is fixed by convention, as in the canonical
            scene.
        rgb: the whole picture in [0, 1], for pixel-aligned features.
        principal: the principal point, as shares of width and height.
    """

    mask: Bool[Tensor, "h w"]
    pointmap: Float[Tensor, "3 h w"] | None
    fov: float
    distance: float | None = None
    rgb: Float[Tensor, "3 h w"] | None = None
    principal: tuple[float, float] = CENTER


class LiftRequest(NamedTuple):
    """One object to lift.

    Attributes:
        name: what errors call it.
        tensors: the inputs of both stages, from `structure_inputs`.
        normalizer: maps the pose from normalised units to those of the pointmap.
        seed: seed of the object's noise, which does not depend on the other objects.
        rgba: the picture around the object, uint8, with the mask as its alpha channel.
        observation: for pose refinement and pixel-aligned features; without it there are neither.
    """

    name: str
    tensors: Mapping[str, Tensor]
    normalizer: Normalizer
    seed: int
    rgba: UInt8[Tensor, "h w 4"]
    observation: Observation | None = None


@dataclass(frozen=True)
class ObservedPicture:
    """A picture with its geometry.

    Attributes:
        pixels: RGB, uint8 `[h, w, 3]`.
        pointmap: x left, y up, z forward, `[3, h, w]`, NaN where unknown; or None.
        fov: horizontal field of view in degrees: given, or fitted to the pointmap, or assumed.
        principal: the principal point, as shares of width and height, likewise.
        opaque: what is opaque in a picture that is partly transparent; None for others.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    pointmap: Float[Tensor, "3 h w"] | None
    fov: float
    principal: tuple[float, float] = CENTER
    opaque: Bool[np.ndarray, "h w"] | None = None

    @cached_property
    def rgb(self) -> Float[Tensor, "3 h w"]:
        """The picture in [0, 1]."""
        return torch.from_numpy(self.pixels.copy()).permute(2, 0, 1).float() / 255

    @classmethod
    def read(
        cls,
        picture: Picture,
        pointmap: Pointmap | None = None,
        pointmap_frame: PointmapFrame = "pytorch3d",
        fov: float | None = None,
        intrinsics: Any = None,
        depth_scale: float = DEPTH_SCALE,
    ) -> ObservedPicture:
        """Read and check a picture and its pointmap; arguments as of `Lifter.scene`.

        Raises:
            LociError: naming the argument at fault and what was expected.
        """
        pixels = read_pixels(picture)
        check_aspect(pixels, LIFT_ASPECT_RATIO)
        if fov is not None and not (isinstance(fov, Real) and 0 < fov < 180):
            raise LociError(f"field of view: {fov} degrees, expected more than 0 and less than 180")
        if pointmap_frame not in get_args(PointmapFrame):
            known = " or ".join(get_args(PointmapFrame))
            raise LociError(f"pointmap frame: {pointmap_frame!r}, expected {known}")
        known = None
        if intrinsics is not None:
            if fov is not None:
                raise LociError("field of view: given with intrinsics, expected one of them")
            known = read_intrinsics(intrinsics, *pixels.shape[:2])
            fov = known.fov
        principal = known.principal if known else CENTER
        if pointmap is None:
            return cls(pixels, None, fov or ASSUMED_FOV, principal, read_alpha(picture))
        points = read_pointmap(pointmap, pointmap_frame, fov, principal, depth_scale)
        points = fitted_pointmap(points, *pixels.shape[:2])
        if known is None:
            principal = fitted_principal(points)
        fov = fov or fitted_fov(points) or ASSUMED_FOV
        return cls(pixels, points, fov, principal, read_alpha(picture))

    def mask(self, mask: Mask | None, name: str = "mask") -> Bool[np.ndarray, "h w"]:
        """An object's mask, cleaned (`clean_mask`) and checked against picture and pointmap.

        Args:
            mask: as of `Lifter.__call__`; None for what is opaque in a picture with transparency.
            name: what messages call a mask that is no file.

        Warns:
            UserWarning: when islands were dropped or pinholes filled, or it has several parts.

        Raises:
            LociError: naming the mask and what is wrong with it.
        """
        shown_name = shown(mask) if isinstance(mask, str | Path) else name
        if mask is None:
            inside = self.opaque
            if inside is None:
                raise LociError(f"{name}: None, expected a mask (or a picture with transparency)")
        else:
            inside = read_mask(mask, name, self.pixels.shape[:2])
        cleaned = check_mask(inside, self.pixels, shown_name)
        for note in cleaned.notes:
            warnings.warn(note, stacklevel=3)
        if self.pointmap is not None:
            check_covers(self.pointmap, torch.from_numpy(cleaned.inside), shown_name)
        return cleaned.inside

    def request(
        self, inside: Bool[np.ndarray, "h w"], name: str, seed: int, input_size: int
    ) -> LiftRequest:
        """The request to lift the object inside a checked mask.

        Args:
            inside: from `mask`.
            name: what errors call the object.
            seed: of its noise.
            input_size: side of the square inputs in pixels.
        """
        mask = torch.from_numpy(inside)[None].float()
        rgba, rgb, points = rgba_crop(self.pixels, inside), self.rgb, self.pointmap
        if points is None:
            # In the canonical scene; `pose_for_camera` has the true camera.
            inputs, normalizer = (
                structure_inputs(rgb, mask, None, input_size),
                canonical_normalizer(mask),
            )
            seen = Observation(mask[0] > 0.5, None, ASSUMED_FOV, ASSUMED_DISTANCE, rgb)
            return LiftRequest(name, inputs.tensors, normalizer, seed, rgba, seen)
        frame = around_principal((rgb, mask, points), self.principal)
        inputs = structure_inputs(*frame, input_size)
        seen = Observation(mask[0] > 0.5, points, self.fov, None, rgb, self.principal)
        return LiftRequest(name, inputs.tensors, inputs.normalizer, seed, rgba, seen)


def rgba_crop(
    pixels: UInt8[np.ndarray, "h w 3"], inside: Bool[np.ndarray, "h w"]
) -> UInt8[Tensor, "k l 4"]:
    """The picture around an object, with the mask as its alpha channel.

    The border is as wide as the window of the spectral ratio (`loci.acceleration.spectral`), so
    that the ratio of the crop is that of the whole picture.
    """
    window = tuple(
        slice(max(0, int(indices.min()) - MARGIN), int(indices.max()) + 1 + 2 * MARGIN)
        for indices in np.nonzero(inside)
    )
    alpha = inside[window].astype(np.uint8)[:, :, None] * np.uint8(255)
    return torch.from_numpy(np.concatenate([pixels[window], alpha], axis=2))


def mask_names(masks: list[Any]) -> list[str]:
    """What errors call the masks: their files, or their numbers."""
    numbered = len(masks) > 1
    return [
        shown(mask) if isinstance(mask, str | Path) else f"mask {number}" if numbered else "mask"
        for number, mask in enumerate(masks, start=1)
    ]
