"""Spectral decoding resolution as in Fast-SAM3D: its released code and its paper."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from loci.acceleration.aggregation import Aggregation, check_factor, merged, shrunk
from loci.acceleration.spectral import (
    IMAGE_SIZE,
    RESOLUTION,
    DecodingConfig,
    SpectralThresholds,
    energy_ratio,
    grid_spectrum,
    image_spectrum,
)

RELEASED_THRESHOLDS = SpectralThresholds(high=0.7, low=0.5)


@dataclass(frozen=True)
class PublishedDecoding(DecodingConfig):
    """What released code and paper share: fixed thresholds, and counts whatever the grid."""

    always_merges: ClassVar[bool] = True

    @property
    def thresholds(self) -> SpectralThresholds:
        return super().thresholds or RELEASED_THRESHOLDS

    def relative_area(self, resolution: int) -> float:
        return 1.0


@dataclass(frozen=True)
class ReleasedDecoding(PublishedDecoding):
    """The released code: ratios of magnitudes. The asset stays small and its pose scales it up."""

    def image_ratio(self, image: UInt8[Tensor, "h w 4"]) -> float:
        """The zero frequency does not count. An empty mask has the ratio 0."""
        spectrum, high = image_spectrum(image)
        size = spectrum.abs()
        size[IMAGE_SIZE // 2, IMAGE_SIZE // 2] = 0
        return float(size[high].sum() / (size.sum() + 1e-8))

    def grid_ratio(
        self,
        coords: Int[Tensor, "n 4"],
        values: Float[Tensor, "n"],
        resolution: int = RESOLUTION,
    ) -> float:
        """The zero frequency counts."""
        spectrum, high = grid_spectrum(coords, values, resolution)
        size = spectrum.abs()
        return float(size[high].sum() / size.sum())

    def aggregate(
        self, coords: Int[Tensor, "n 4"], factor: float, resolution: int = RESOLUTION
    ) -> Aggregation:
        """The object shrinks about the middle of its bounds, with rounding."""
        check_factor(factor)
        small, parent = torch.unique(shrunk(coords, factor), dim=0, return_inverse=True)
        return Aggregation(small, parent, factor, pose_factor=factor)


@dataclass(frozen=True)
class PaperDecoding(PublishedDecoding):
    """The paper: ratios of energies, and floor(p / factor) before the mesh decoder."""

    merges_for_mesh: ClassVar[bool] = True

    def grid_ratio(
        self,
        coords: Int[Tensor, "n 4"],
        values: Float[Tensor, "n"],
        resolution: int = RESOLUTION,
    ) -> float:
        """The zero frequency counts."""
        return energy_ratio(*grid_spectrum(coords, values, resolution), with_zero_frequency=True)

    def aggregate(
        self, coords: Int[Tensor, "n 4"], factor: float, resolution: int = RESOLUTION
    ) -> Aggregation:
        """The object shrinks towards the corner of the grid, which `asset_shift` makes up for."""
        check_factor(factor)
        cells = (coords[:, 1:].cpu().double() / factor).floor()
        shift = (factor - 1) / 2
        return Aggregation(*merged(coords, cells), factor, asset_factor=factor, asset_shift=shift)
