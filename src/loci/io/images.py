"""Pictures in: any still picture, upright, as plain pixels."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from loci.errors import LociError
from loci.io.files import shown

T = TypeVar("T")
WALK_ASPECT_RATIO, LIFT_ASPECT_RATIO = 32, 16
"""The longer side of a picture over the shorter at most: to walk into, and to lift from."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pillow refuses pictures that have more."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_UNREADABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
# What Pillow raises on damaged files, by format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)


def read_pixels(source: Any) -> NDArray[np.uint8]:
    """A picture as upright RGB pixels uint8 `[h, w, 3]`, at its own size.

    EXIF rotation is applied, 16-bit grey scaled to 8, CMYK and palettes converted, and what is
    transparent laid on white.

    Args:
        source: a file, a Pillow image, an array uint8 `[h, w, 3]`, or a tensor `[h, w, 3]` or
            `[3, h, w]` of bytes or of floats in [0, 1].

    Raises:
        LociError: when it cannot be read, is damaged, animated, or no 8- or 16-bit picture.
    """
    if hasattr(source, "detach"):
        source = _from_tensor(source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            shape = f"{source.dtype} {list(source.shape)}"
            raise LociError(f"picture: array {shape}, expected uint8 [height, width, 3]")
        return source
    return open_image(source, "picture", _convert)


def _from_tensor(tensor: Any) -> NDArray[np.uint8]:
    """Pixels of a tensor, whose channels are its first or its last axis."""
    tensor = tensor.detach().cpu()
    floats = tensor.is_floating_point()
    values = (tensor.float() if floats else tensor).numpy()
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim != 3 or 3 not in (values.shape[0], values.shape[2]):
        raise LociError(f"picture: tensor {list(values.shape)}, expected [height, width, 3]")
    if values.shape[2] != 3:
        values = values.transpose(1, 2, 0)
    if floats:
        if not values.size or not (values.min() >= 0 and values.max() <= 1):
            raise LociError("picture: tensor of floats, expected values from 0 to 1")
        values = np.rint(values * 255).astype(np.uint8)
    return np.ascontiguousarray(values)


def check_aspect(pixels: NDArray[np.uint8], most: int, name: str = "picture") -> None:
    """Raises LociError when one side of a picture is more than `most` times the other."""
    height, width = pixels.shape[:2]
    if max(height, width) > most * min(height, width):
        raise LociError(f"{name}: {width} x {height} pixels, expected at most {most} to 1")


def open_image(source: Any, name: str, convert: Callable[[Image.Image, str], T]) -> T:
    """Opens an image, if it is not open already, and returns what `convert` makes of it.

    Args:
        source: a file or a Pillow image.
        name: what an error calls an image that is no file.
        convert: called with the image and its name.

    Raises:
        LociError: when it cannot be read, or from `convert`.
    """
    if isinstance(source, Image.Image):
        return convert(source, name)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise LociError(f"{name}: {kind}, expected a file, a Pillow image or a NumPy array")
    name = shown(source)
    try:
        # Pillow warns of what is read all the same, such as damaged EXIF data.
        with warnings.catch_warnings(action="ignore"), Image.open(source) as image:
            return convert(image, name)
    except Image.UnidentifiedImageError as error:
        if _is_heic(source):
            raise LociError(
                f"{name}: HEIC, the format of iPhones, which cannot be read; expected a PNG, "
                "JPEG, WebP or the like (export the picture as JPEG)"
            ) from error
        raise LociError(f"{name}: no picture, expected a PNG, JPEG, WebP or the like") from error
    except Image.DecompressionBombError as error:
        raise LociError(
            f"{name}: too many pixels, expected at most {MAX_PIXELS // 1_000_000} million"
        ) from error
    except _UNREADABLE as error:
        raise LociError(f"{name}: cannot be read ({error.strerror})") from error
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or error
        raise LociError(
            f"{name}: truncated or damaged ({shown(reason)}), expected a whole picture"
        ) from error


def _is_heic(source: str | os.PathLike[str]) -> bool:
    with open(source, "rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS


def upright(image: Image.Image, name: str) -> Image.Image:
    """A still picture, turned as its EXIF says.

    Raises:
        LociError: when it is animated or its pixels are floats.
    """
    # Phones store stills as MPO with a second view or a preview behind the picture itself.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise LociError(f"{name}: animated ({frames} frames), expected a single picture")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise LociError(f"{name}: floating-point pixels, expected 8 or 16 bits a channel")
    return image


def _convert(image: Image.Image, name: str) -> NDArray[np.uint8]:
    image = upright(image, name)
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), name)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _from_16_bit(gray: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if gray.min() < 0 or gray.max() > 65535:
        raise LociError(f"{name}: 32-bit pixels, expected 8 or 16 bits a channel")
    eight = np.rint(gray.astype(np.float32) / 257).astype(np.uint8)
    return np.repeat(eight[:, :, None], 3, axis=2)
