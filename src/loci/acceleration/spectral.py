"""Decoding resolution by spectrum: objects with little fine detail are decoded on a coarser grid.

Detail is measured as the share of high frequencies in the object's image and in its voxel grid.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from loci.acceleration.aggregation import Aggregation, aggregate
from loci.acceleration.area_resize import area_resized

IMAGE_SIZE = 256
IMAGE_RADIUS = 38
"""Image frequencies beyond this are high: 15 % of `IMAGE_SIZE`."""
GRID_PART = 8
"""Grid frequencies from the resolution divided by this are high."""
RESOLUTION = 64
"""Resolution of the published voxel grid, to which counts of voxels refer."""
MARGIN = 2
"""Pixels of an image that are kept around the object."""


@dataclass(frozen=True)
class SpectralThresholds:
    """Joint ratios that choose the decoding factor: 1.25 from `high` on, 2 up to `low`, else 1.5.

    Raises:
        ValueError: if low exceeds high.
    """

    high: float
    low: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"thresholds: expected low <= high, got {self.low} and {self.high}")


@dataclass(frozen=True)
class DecodingConfig:
    """How the decoding factor of an object is chosen, and how its voxels are merged.

    `loci.acceleration.published.decoding` has those of the released code and of the paper.

    Args:
        high: see `SpectralThresholds`. None with `low` takes the model's own (`ModelCalibration`);
            a model without any merges nothing.
        low: likewise.
        image_weight: weight of the image's ratio in the joint ratio; the grid's has the rest.
        limit: with at least this many voxels the factor is 2 whatever the ratio. Counts refer to
            a grid of 64^3 and scale with the area of its faces: 32^3 has a quarter.
        minimum: with fewer voxels the factor is 1.
    """

    high: float | None = None
    low: float | None = None
    image_weight: float = 0.9
    limit: int = 42000
    minimum: int = 2048

    always_merges: ClassVar[bool] = False
    """Whether voxels are also merged by a factor of 1, which sorts them and applies the limit."""
    merges_for_mesh: ClassVar[bool] = False
    """Whether voxels are merged for the mesh decoder only, after the SLAT flow."""

    @property
    def thresholds(self) -> SpectralThresholds | None:
        """None if nothing is merged."""
        if self.high is None or self.low is None:
            return None
        return SpectralThresholds(self.high, self.low)

    def with_thresholds(self, thresholds: SpectralThresholds | None) -> "DecodingConfig":
        """With these thresholds unless it has its own."""
        if thresholds is None or self.thresholds is not None:
            return self
        return replace(self, high=thresholds.high, low=thresholds.low)

    def image_ratio(self, image: UInt8[Tensor, "h w 4"]) -> float:
        """The share of high frequencies in the energy of an object's image, RGBA with its mask.

        The zero frequency does not count. An empty mask has the ratio 0.
        """
        spectrum, high = image_spectrum(image)
        return energy_ratio(spectrum, high)

    def grid_ratio(
        self,
        coords: Int[Tensor, "n 4"],
        values: Float[Tensor, "n"],
        resolution: int = RESOLUTION,
    ) -> float:
        """The share of high frequencies in the energy of the positive logits on their grid.

        The zero frequency does not count.
        """
        return energy_ratio(*grid_spectrum(coords, values, resolution))

    def joint_ratio(self, image: float, grid: float) -> float:
        """The weighted mean of both ratios."""
        return self.image_weight * image + (1 - self.image_weight) * grid

    def factor(self, image: float, grid: float, voxels: int, resolution: int = RESOLUTION) -> float:
        """The decoding factor: 1, 1.25, 1.5 or 2. An unknown ratio, 0, gives 1.

        Args:
            image: the ratio from `image_ratio`.
            grid: the ratio from `grid_ratio`.
            voxels: their number.
            resolution: the resolution of their grid.
        """
        if self.thresholds is None:
            return 1.0
        area = self.relative_area(resolution)
        if voxels >= self.limit * area:
            return 2.0
        if voxels < self.minimum * area or image == 0 or grid == 0:
            return 1.0
        joint = self.joint_ratio(image, grid)
        if joint >= self.thresholds.high:
            return 1.25
        return 1.5 if joint > self.thresholds.low else 2.0

    def relative_area(self, resolution: int) -> float:
        """What voxel counts are multiplied by in a grid of another resolution."""
        return (resolution / RESOLUTION) ** 2

    def aggregate(
        self, coords: Int[Tensor, "n 4"], factor: float, resolution: int = RESOLUTION
    ) -> Aggregation:
        """The voxels merged by the factor."""
        return aggregate(coords, factor, resolution)


def fit_thresholds(joint: Float[Tensor, "n"], share: float = 1 / 3) -> SpectralThresholds:
    """Thresholds that give `share` of these objects the factor 1.25 and `share` the factor 2."""
    quantiles = joint.new_tensor([1 - share, share])
    return SpectralThresholds(*torch.quantile(joint, quantiles).tolist())


def token_scores(
    coords: Int[Tensor, "n 4"], values: Float[Tensor, "n"], resolution: int = RESOLUTION
) -> Float[Tensor, "n"]:
    """The magnitude of the grid's high frequencies at every voxel, scaled to 0..1."""
    spectrum, high = grid_spectrum(coords, values, resolution)
    detail = torch.fft.ifftn(torch.fft.ifftshift(spectrum * high)).abs()
    scores = detail[coords[:, 1:].cpu().long().unbind(1)]
    low, top = scores.amin(), scores.amax()
    return ((scores - low) / (top - low).clamp(min=1e-12)).float().to(values.device)


def image_spectrum(image: UInt8[Tensor, "h w 4"]) -> tuple[Tensor, Bool[Tensor, "256 256"]]:
    """The spectrum of the windowed grey image, zero frequency in the middle; where it is high."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(windowed_gray(image).cpu().double()))
    return spectrum, _frequency(IMAGE_SIZE, 2) > IMAGE_RADIUS


def grid_spectrum(
    coords: Int[Tensor, "n 4"], values: Float[Tensor, "n"], resolution: int
) -> tuple[Tensor, Bool[Tensor, "r r r"]]:
    """The spectrum of the positive values, zero frequency in the middle; where it is high."""
    grid = torch.zeros((resolution,) * 3, dtype=torch.float64)
    grid[coords[:, 1:].cpu().long().unbind(1)] = values.cpu().double().clamp(min=0)
    high = _frequency(resolution, 3) >= resolution / GRID_PART
    return torch.fft.fftshift(torch.fft.fftn(grid)), high


def energy_ratio(spectrum: Tensor, high: Tensor, with_zero_frequency: bool = False) -> float:
    """The energy of the high frequencies over that of all."""
    energy = spectrum.abs().square()
    if not with_zero_frequency:
        energy[tuple(n // 2 for n in energy.shape)] = 0
    return float(energy[high].sum() / energy.sum().clamp(min=1e-12))


def windowed_gray(image: UInt8[Tensor, "h w 4"]) -> Float[Tensor, "256 256"]:
    """Grey values cropped to the object, resized, filled with their mean outside the mask and
    multiplied by a Hann window. All zeros for an empty mask."""
    image = image.cpu()
    alpha, shade = image[..., 3], gray(image[..., :3])
    inside = alpha.nonzero()
    if not len(inside):
        return torch.zeros(IMAGE_SIZE, IMAGE_SIZE)
    low = (inside.amin(dim=0) - MARGIN).clamp(min=0)
    side = inside.amax(dim=0) + 1 - inside.amin(dim=0) + 2 * MARGIN
    crop = tuple(slice(int(a), int(a + n)) for a, n in zip(low, side, strict=True))
    shade = area_resized(shade[crop], IMAGE_SIZE).float()
    mask = area_resized(alpha[crop], IMAGE_SIZE) > 0
    shade[~mask] = shade[mask].mean() if mask.any() else 0.0
    window = torch.hann_window(IMAGE_SIZE, periodic=False, dtype=torch.float64)
    return (shade * torch.outer(window, window)).float()


def gray(rgb: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "h w"]:
    """0.299 r + 0.587 g + 0.114 b in OpenCV's integer arithmetic."""
    r, g, b = rgb.long().unbind(-1)
    return ((9798 * r + 19235 * g + 3735 * b + 2**14) >> 15).to(torch.uint8)


def _frequency(size: int, axes: int) -> Float[Tensor, "..."]:
    """The distance of every frequency from the zero frequency in the middle."""
    line = torch.arange(size, dtype=torch.float64) - size // 2
    squared = torch.meshgrid(*(line.square(),) * axes, indexing="ij")
    return torch.stack(squared).sum(dim=0).sqrt()
