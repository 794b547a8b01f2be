"""Frames of a world: pictures scaled to a model's size, as tensors and back."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from loci.io.images import WALK_ASPECT_RATIO, check_aspect, read_pixels

# Sizes that Infinite-World (arXiv 2602.02393) was trained at: height / width -> (h, w).
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


def choose_bucket(height: int, width: int) -> tuple[int, int]:
    """The published size (h, w) whose aspect ratio is closest to that of a picture."""
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
    check_aspect(pixels, WALK_ASPECT_RATIO)
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
