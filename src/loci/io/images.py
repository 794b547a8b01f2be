"""Pictures and masks in: any still picture, upright, as plain pixels."""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from loci.errors import LociError

T = TypeVar("T")
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


def _opened(
    source: str | Path | Image.Image, name: str, convert: Callable[[Image.Image, str], T]
) -> T:
    """What `convert` makes of an image, which is opened if need be."""
    if isinstance(source, Image.Image):
        return convert(source, name)
    try:
        with Image.open(source) as image:
            return convert(image, str(source))
    except Image.UnidentifiedImageError as error:
        raise LociError(f"{source}: no picture, expected a PNG, JPEG, WebP or the like") from error
    except Image.DecompressionBombError as error:
        raise LociError(f"{source}: too many pixels, expected a picture of usual size") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise LociError(f"{source}: cannot be read ({error.strerror})") from error
    except _DAMAGED as error:
        raise LociError(
            f"{source}: truncated or damaged ({error}), expected a whole picture"
        ) from error


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


# The sizes the released model was trained at (Infinite-World, 10): height / width -> (h, w).
ASPECT_RATIO_627_F64 = {
    0.26: (320, 1216),
    0.38: (384, 1024),
    0.50: (448, 896),
    0.67: (512, 768),
    0.82: (576, 704),
    1.00: (640, 640),
    1.22: (704, 576),
    1.50: (768, 512),
    1.86: (832, 448),
    2.00: (896, 448),
    2.50: (960, 384),
    2.83: (1088, 384),
    3.60: (1152, 320),
    3.80: (1216, 320),
    4.00: (1280, 320),
}
LONGEST_TO_SHORTEST = 32


def choose_bucket(height: int, width: int) -> tuple[int, int]:
    """The released size (h, w) whose aspect ratio is closest to that of a picture."""
    ratio = height / width
    return ASPECT_RATIO_627_F64[min(ASPECT_RATIO_627_F64, key=lambda key: abs(key - ratio))]


def load_picture(
    source: str | Path | Image.Image | NDArray[np.uint8], size: tuple[int, int]
) -> Float[Tensor, "1 3 1 h w"]:
    """A picture as the frame a walk starts from: `size` is (height, width), values in [-1, 1].

    Args:
        source: a file, a Pillow image, or RGB pixels uint8 `[h, w, 3]`.

    Raises:
        LociError: when it cannot be read, is damaged, animated, or no 8- or 16-bit picture.
    """
    return frames_to_tensor(fit(read_pixels(source), size)[None])


def fit(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scales uint8 `[h, w, 3]` by area until it covers `size` (height, width); crops the centre.

    Raises:
        LociError: when one side is more than 32 times the other.
    """
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST_TO_SHORTEST * min(height, width):
        raise LociError(
            f"picture: {width}x{height} pixels, expected at most {LONGEST_TO_SHORTEST} to 1"
        )
    target_h, target_w = size
    ratio = max(target_h / height, target_w / width)
    # Rounded up in floating point, as published: 768x1376 for 448x896 gives 501x897, not 501x896.
    scaled_h, scaled_w = math.ceil(height * ratio), math.ceil(width * ratio)
    top, left = round((scaled_h - target_h) / 2), round((scaled_w - target_w) / 2)
    rows = _area_weights(height, scaled_h)[top : top + target_h]
    columns = _area_weights(width, scaled_w)[left : left + target_w]
    scaled = np.stack([rows @ pixels[:, :, c] @ columns.T for c in range(3)], axis=2)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _area_weights(old: int, new: int) -> NDArray[np.float32]:
    """Row i holds how much of each old pixel lies under new pixel i; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * (new / old)).astype(np.float32)


def frames_to_tensor(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[Tensor, "1 3 t h w"]:
    """uint8 frames as a float video in [-1, 1], float32."""
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def tensor_to_frames(video: Float[Tensor, "1 3 t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    """A float video in [-1, 1] as uint8 frames, rounded; the inverse of `frames_to_tensor`."""
    levels = ((video[0].float() + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
