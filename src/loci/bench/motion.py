"""Which way the camera moved between two frames, seen in the frames alone.

Signs only: turning left moves the picture to the right, going forward makes it grow.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

FARTHEST = 16  # pixels of 64
ZOOMS = (1.02, 1.04, 1.07, 1.11, 1.16)
Frames = UInt8[np.ndarray, "n h w 3"]


def shift_right(before: Frames, after: Frames) -> Int[np.ndarray, "n"]:
    """By how many pixels the picture went to the right, best match of up to a quarter width."""
    a, b = before.astype(np.float32), after.astype(np.float32)
    width = a.shape[2]
    most = FARTHEST * width // 64
    errors = [
        np.square(
            a[:, :, max(0, -s) : width - max(0, s)] - b[:, :, max(0, s) : width + min(0, s)]
        ).mean(axis=(1, 2, 3))
        for s in range(-most, most + 1)
    ]
    return np.argmin(errors, axis=0) - most


def growth(before: Frames, after: Frames) -> Float[np.ndarray, "n"]:
    """How much better the picture's growing explains the change than its shrinking.

    Positive when it grew, negative when it shrank: the difference of the least mean squared
    errors, over some zooms, of the one enlarged against the other.
    """
    a, b = _video(before), _video(after)
    shrank = torch.stack([_error(_zoomed(b, zoom), a) for zoom in ZOOMS]).amin(dim=0)
    grew = torch.stack([_error(_zoomed(a, zoom), b) for zoom in ZOOMS]).amin(dim=0)
    return (shrank - grew).numpy()


def _video(frames: Frames) -> Float[Tensor, "n 3 h w"]:
    return torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float()


def _zoomed(images: Tensor, zoom: float) -> Tensor:
    """The middle of the images, enlarged to fill them."""
    matrix = torch.tensor([[1 / zoom, 0.0, 0.0], [0.0, 1 / zoom, 0.0]])
    grid = F.affine_grid(
        matrix.expand(len(images), -1, -1), list(images.shape), align_corners=False
    )
    return F.grid_sample(images, grid, align_corners=False)


def _error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(dim=(1, 2, 3))
