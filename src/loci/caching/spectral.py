"""Resizing a picture by area as the image library of the published code does it.

The spectral ratio of a picture depends on every detail of how it was resized: a truly averaged
enlargement halves it. So the integer arithmetic is repeated here, for one channel of bytes.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

WEIGHT_BITS = 11
"""Weights of an enlargement are integers, 2048 for 1."""


def area_resized(picture: UInt8[Tensor, "h w"], size: int) -> UInt8[Tensor, "size size"]:
    """A square of `size`: pixels averaged by the area they share, if neither side grows.

    Else linear between two neighbours in both directions, with weights that keep pixels flat
    where a side grows by a whole factor.
    """
    height, width = picture.shape
    if height >= size and width >= size:
        rows, columns = (_shares(n, size) for n in (height, width))
        means = rows @ picture.cpu().double() @ columns.T
        # Means of four are rounded half up, all others half to even.
        halved = height == width == 2 * size
        return ((means + 0.5).floor() if halved else means.round()).to(torch.uint8)
    (low_y, weight_y), (low_x, weight_x) = _neighbours(height, size), _neighbours(width, size)
    whole = 2**WEIGHT_BITS
    wide = picture.long()
    high_x, high_y = (low_x + 1).clamp(max=width - 1), (low_y + 1).clamp(max=height - 1)
    across = wide[:, low_x] * (whole - weight_x) + wide[:, high_x] * weight_x
    # The vertical pass drops low bits on the way, as the library's integer code does.
    upper = ((whole - weight_y)[:, None] * (across[low_y] >> 4)) >> 16
    lower = (weight_y[:, None] * (across[high_y] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _neighbours(length: int, size: int) -> tuple[Tensor, Tensor]:
    """The first of the two source pixels of every target, and the weight of the second."""
    scale = length / size
    target = torch.arange(size, dtype=torch.float64)
    low = (target * scale).floor()
    share = (target + 1) - (low + 1) / scale
    share = torch.where(share <= 0, 0.0, share - share.floor())
    share = torch.where(low >= length - 1, 0.0, share)
    weight = (share.float() * 2**WEIGHT_BITS).round()
    return low.clamp(max=length - 1).long(), weight.long()


def _shares(length: int, size: int) -> Float[Tensor, "size length"]:
    """The part of every target pixel that each source pixel covers."""
    scale = length / size
    start = torch.arange(size, dtype=torch.float64)[:, None] * scale
    pixel = torch.arange(length, dtype=torch.float64)
    covered = torch.minimum(pixel + 1, start + scale) - torch.maximum(pixel, start)
    return covered.clamp(min=0) / scale


PICTURE_SIZE = 256
PICTURE_RADIUS = 38
"""Frequencies of a picture beyond this are high: 15 in 100 of its size."""
GRID_PART = 8
"""Frequencies of a grid from its resolution over this on are high."""
RESOLUTION = 64
"""Of the released grid, by which the released counts of voxels are meant."""
MARGIN = 2


@dataclass(frozen=True)
class Thresholds:
    """Joint ratios: from `high` on the factor is the least, 1.25; up to `low` it is 2; between
    them 1.5."""

    high: float
    low: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"thresholds: expected low <= high, got {self.low} and {self.high}")


RELEASED_THRESHOLDS = Thresholds(high=0.7, low=0.5)


@dataclass(frozen=True)
class DecodingConfig:
    """The defaults are the released ones (Fast-SAM3D, 3).

    Args:
        mode: `released` sums magnitudes and keeps a grid's zero frequency; `paper` sums energies;
            `loci` sums energies without the zero frequency.
        high: as of `Thresholds`; None with `low` for the released ones, in mode `loci` for those
            that were measured with the model (`ModelCalibration`), without which nothing is merged.
        low: likewise.
        picture_weight: of the picture's ratio in the joint one.
        limit: with at least so many voxels the factor is 2 whatever the ratio. Counts are of a
            grid of 64^3; in mode `loci` they go with the area, so a grid of 32^3 has a quarter.
        minimum: with fewer voxels it is 1.
    """

    mode: Literal["released", "paper", "loci"] = "released"
    high: float | None = None
    low: float | None = None
    picture_weight: float = 0.9
    limit: int = 42000
    minimum: int = 2048

    @property
    def thresholds(self) -> Thresholds | None:
        """None where nothing is to be merged."""
        if self.high is not None and self.low is not None:
            return Thresholds(self.high, self.low)
        return None if self.mode == "loci" else RELEASED_THRESHOLDS

    def at(self, thresholds: Thresholds | None) -> "DecodingConfig":
        """With these thresholds, if it has none of its own."""
        if thresholds is None or self.thresholds is not None:
            return self
        return replace(self, high=thresholds.high, low=thresholds.low)

    def joint(self, picture: float, grid: float) -> float:
        """The joint ratio of a picture's and a grid's."""
        return self.picture_weight * picture + (1 - self.picture_weight) * grid


def decoding_factor(
    picture: float, grid: float, voxels: int, config: DecodingConfig, resolution: int = RESOLUTION
) -> float:
    """1, 1.25, 1.5 or 2. A ratio of exactly 0 is a ratio that could not be had: factor 1.

    Args:
        picture: the high-frequency ratio of the masked picture.
        grid: that of the coarse structure.
        voxels: how many the structure has.
        config: thresholds.
        resolution: of the structure's grid.
    """
    thresholds = config.thresholds
    if thresholds is None:
        return 1.0
    area = (resolution / RESOLUTION) ** 2 if config.mode == "loci" else 1.0
    if voxels >= config.limit * area:
        return 2.0
    if voxels < config.minimum * area or picture == 0 or grid == 0:
        return 1.0
    joint = config.joint(picture, grid)
    if joint >= thresholds.high:
        return 1.25
    return 1.5 if joint > thresholds.low else 2.0


def thresholds(joint: Float[Tensor, "n"], share: float = 1 / 3) -> Thresholds:
    """Such that `share` of these objects get the least factor and `share` the most."""
    wanted = joint.new_tensor([1 - share, share])
    return Thresholds(*torch.quantile(joint, wanted).tolist())


def picture_ratio(picture: UInt8[Tensor, "h w 4"], mode: str = "released") -> float:
    """The high-frequency ratio of a cut-out: RGBA bytes, the alpha channel its support.

    The zero frequency does not count. A picture with no support has the ratio 0.
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(windowed(picture).cpu().double()))
    if mode == "released":
        size = spectrum.abs()
        size[PICTURE_SIZE // 2, PICTURE_SIZE // 2] = 0
        high = _distance(PICTURE_SIZE, 2) > PICTURE_RADIUS
        return float(size[high].sum() / (size.sum() + 1e-8))
    return _energy_ratio(spectrum, _distance(PICTURE_SIZE, 2) > PICTURE_RADIUS, keep_zero=False)


def windowed(picture: UInt8[Tensor, "h w 4"]) -> Float[Tensor, "256 256"]:
    """The object's grey values, cropped to it, resized, its mean around it, faded to the border."""
    picture = picture.cpu()
    alpha, shade = picture[..., 3], grey(picture[..., :3])
    inside = alpha.nonzero()
    if not len(inside):
        return torch.zeros(PICTURE_SIZE, PICTURE_SIZE)
    low = (inside.amin(dim=0) - MARGIN).clamp(min=0)
    side = inside.amax(dim=0) + 1 - inside.amin(dim=0) + 2 * MARGIN
    crop = tuple(slice(int(a), int(a + n)) for a, n in zip(low, side, strict=True))
    shade = area_resized(shade[crop], PICTURE_SIZE).float()
    support = area_resized(alpha[crop], PICTURE_SIZE) > 0
    shade[~support] = shade[support].mean() if support.any() else 0.0
    fade = torch.hann_window(PICTURE_SIZE, periodic=False, dtype=torch.float64)
    return (shade * torch.outer(fade, fade)).float()


def grey(rgb: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "h w"]:
    """0.299 r + 0.587 g + 0.114 b in the usual integer arithmetic."""
    r, g, b = rgb.long().unbind(-1)
    return ((9798 * r + 19235 * g + 3735 * b + 2**14) >> 15).to(torch.uint8)


def grid_ratio(
    coords: Int[Tensor, "n 4"],
    values: Float[Tensor, "n"],
    resolution: int = RESOLUTION,
    mode: str = "released",
) -> float:
    """The high-frequency ratio of a structure: its positive logits in an empty grid."""
    spectrum, high = _spectrum(coords, values, resolution)
    if mode == "released":
        size = spectrum.abs()
        return float(size[high].sum() / size.sum())
    return _energy_ratio(spectrum, high, keep_zero=mode == "paper")


def token_scores(
    coords: Int[Tensor, "n 4"], values: Float[Tensor, "n"], resolution: int = RESOLUTION
) -> Float[Tensor, "n"]:
    """Of every voxel, the size of the structure's high frequencies there, from 0 to 1."""
    spectrum, high = _spectrum(coords, values, resolution)
    detail = torch.fft.ifftn(torch.fft.ifftshift(spectrum * high)).abs()
    here = detail[coords[:, 1:].cpu().long().unbind(1)]
    low, top = here.amin(), here.amax()
    return ((here - low) / (top - low).clamp(min=1e-12)).float().to(values.device)


def _spectrum(coords: Tensor, values: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """The grid's spectrum, zero frequency in the middle, and where it is high."""
    grid = torch.zeros((resolution,) * 3, dtype=torch.float64)
    grid[coords[:, 1:].cpu().long().unbind(1)] = values.cpu().double().clamp(min=0)
    high = _distance(resolution, 3) >= resolution / GRID_PART
    return torch.fft.fftshift(torch.fft.fftn(grid)), high


def _energy_ratio(spectrum: Tensor, high: Tensor, keep_zero: bool) -> float:
    energy = spectrum.abs().square()
    if not keep_zero:
        energy[tuple(n // 2 for n in energy.shape)] = 0
    return float(energy[high].sum() / energy.sum().clamp(min=1e-12))


def _distance(size: int, axes: int) -> Float[Tensor, "..."]:
    """Of every frequency from the zero frequency in the middle."""
    line = torch.arange(size, dtype=torch.float64) - size // 2
    squared = torch.meshgrid(*(line.square(),) * axes, indexing="ij")
    return torch.stack(squared).sum(dim=0).sqrt()
