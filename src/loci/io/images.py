"""Pictures and masks in: any still picture, upright, as plain pixels."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from loci.errors import LociError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

T = TypeVar("T")
WALK_ASPECT_RATIO, LIFT_ASPECT_RATIO = 32, 16
"""The longer side of a picture over the shorter at most: to walk into, and to lift from."""
MIN_MASK_SIZE = 3
"""Pixels of the longer side of a mask's bounding box."""
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pillow refuses pictures that have more."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# What Pillow raises on damaged files, by format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)


def read_pixels(source: str | Path | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as upright RGB pixels uint8 `[h, w, 3]`, at its own size.

    EXIF rotation is applied, 16-bit grey scaled to 8, CMYK and palettes converted, and what is
    transparent laid on white.

    Raises:
        LociError: when it cannot be read, is damaged, animated, or no 8- or 16-bit picture.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            shape = f"{source.dtype} {list(source.shape)}"
            raise LociError(f"picture: array {shape}, expected uint8 [height, width, 3]")
        return source
    return _opened(source, "picture", _convert)


def read_mask(
    source: str | Path | Image.Image | NDArray[Any], name: str = "mask"
) -> Bool[np.ndarray, "h w"]:
    """A mask, True inside, at its own size, upright as `read_pixels` makes the picture.

    Inside is what is bright in a file: more than half of the range in any channel, or 1 in a
    file of zeros and ones. Where a file is partly transparent its opacity counts instead of its
    colours. Arrays are booleans, bytes (0..255, or 0 and 1) or floats in [0, 1].

    Args:
        source: a file, a Pillow image, or an array `[h, w]`.
        name: what an error calls a mask that is no file.

    Raises:
        LociError: when it cannot be read, leaves open what is inside, or holds nothing.
    """
    if isinstance(source, np.ndarray):
        return _inside(_levels(source, name), name)
    named = name if isinstance(source, Image.Image) else str(source)
    return _inside(_opened(source, name, _mask_levels), named)


def check_aspect(pixels: NDArray[np.uint8], most: int, name: str = "picture") -> None:
    """Raises LociError when one side of a picture is more than `most` times the other."""
    height, width = pixels.shape[:2]
    if max(height, width) > most * min(height, width):
        raise LociError(f"{name}: {width} x {height} pixels, expected at most {most} to 1")


def check_mask(
    inside: Bool[np.ndarray, "h w"], pixels: NDArray[np.uint8], name: str = "mask"
) -> None:
    """Raises LociError where a mask is not as large as its picture, or too small to be an object's.

    Args:
        inside: True on the object, not empty.
        pixels: of the picture.
        name: what the error calls the mask.
    """
    size, expected = inside.shape, pixels.shape[:2]
    if size != expected:
        raise LociError(
            f"{name}: {size[1]} x {size[0]}, expected {expected[1]} x {expected[0]} as the "
            "picture (upright, as its EXIF says)"
        )
    if max(int(np.ptp(places)) + 1 for places in np.nonzero(inside)) < MIN_MASK_SIZE:
        raise LociError(f"{name}: an object too small, expected {MIN_MASK_SIZE} pixels across")


def _opened(
    source: str | Path | Image.Image, name: str, convert: Callable[[Image.Image, str], T]
) -> T:
    """What `convert` makes of an image, which is opened if need be."""
    if isinstance(source, Image.Image):
        return convert(source, name)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise LociError(f"{name}: {kind}, expected a file, a Pillow image or a NumPy array")
    try:
        # Pillow warns of what is read all the same, such as damaged EXIF data.
        with warnings.catch_warnings(action="ignore"), Image.open(source) as image:
            return convert(image, str(source))
    except Image.UnidentifiedImageError as error:
        if _is_heic(source):
            raise LociError(
                f"{source}: HEIC, the format of iPhones, which cannot be read; expected a PNG, "
                "JPEG, WebP or the like (export the picture as JPEG)"
            ) from error
        raise LociError(f"{source}: no picture, expected a PNG, JPEG, WebP or the like") from error
    except Image.DecompressionBombError as error:
        raise LociError(
            f"{source}: too many pixels, expected at most {MOST_PIXELS // 1_000_000} million"
        ) from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise LociError(f"{source}: cannot be read ({error.strerror})") from error
    except _DAMAGED as error:
        raise LociError(
            f"{source}: truncated or damaged ({error}), expected a whole picture"
        ) from error


def _is_heic(source: str | os.PathLike[str]) -> bool:
    with open(source, "rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS


def _upright(image: Image.Image, name: str) -> Image.Image:
    # Phones store stills as MPO with a second view or a preview behind the picture itself.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise LociError(f"{name}: animated ({frames} frames), expected a single picture")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise LociError(f"{name}: floating-point pixels, expected 8 or 16 bits a channel")
    return image


def _convert(image: Image.Image, name: str) -> NDArray[np.uint8]:
    image = _upright(image, name)
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), name)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _from_16_bit(grey: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if grey.min() < 0 or grey.max() > 65535:
        raise LociError(f"{name}: 32-bit pixels, expected 8 or 16 bits a channel")
    eight = np.rint(grey.astype(np.float32) / 257).astype(np.uint8)
    return np.repeat(eight[:, :, None], 3, axis=2)


def _mask_levels(image: Image.Image, name: str) -> Float[np.ndarray, "h w"]:
    image = _upright(image, name)
    if image.mode.startswith("I"):
        return _levels(np.asarray(image), name)
    if image.has_transparency_data:
        opacity = np.asarray(image.convert("RGBA"))[:, :, 3]
        if opacity.min() < 255:
            return _levels(opacity, name)
    if image.mode == "1":
        return _levels(np.asarray(image), name)
    return _levels(np.asarray(image.convert("RGB")).max(axis=2), name)


def _levels(values: NDArray[Any], name: str) -> Float[np.ndarray, "h w"]:
    """Values in [0, 1] of booleans, floats, integers up to 1, 255 or 65535."""
    if values.ndim != 2 or not values.size:
        raise LociError(f"{name}: array {list(values.shape)}, expected [height, width]")
    if values.dtype.kind not in "buif":
        raise LociError(f"{name}: {values.dtype}, expected booleans, bytes or floats")
    if not np.isfinite(values).all() or values.min() < 0:
        raise LociError(f"{name}: expected values from 0 up, found negative or none at all")
    most = values.max()
    whole_range = 255 if most <= 255 else 65535
    scale = 1 if values.dtype.kind in "bf" or most <= 1 else whole_range
    levels = values.astype(np.float32) / scale
    if most > scale or (most and levels.max() <= 0.5):
        raise LociError(f"{name}: values up to {most}, expected 0 outside and 255 or 1 inside")
    return levels


def _inside(levels: Float[np.ndarray, "h w"], name: str) -> Bool[np.ndarray, "h w"]:
    inside = levels > 0.5
    if not inside.any():
        raise LociError(f"{name}: empty, expected an object but no pixel is inside")
    return inside
