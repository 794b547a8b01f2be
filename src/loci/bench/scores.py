"""How alike two pictures are, frame by frame."""

import numpy as np
from jaxtyping import Float, UInt8

from loci.errors import LociError

EXTRA = "pip install 'genius-loci[bench]'"
BEST_PSNR = 60.0  # of equal frames, so that a mean stays finite
Frames = UInt8[np.ndarray, "n h w 3"]


def psnr(a: Frames, b: Frames) -> Float[np.ndarray, "n"]:
    """Peak signal to noise ratio in dB, at most 60."""
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 10 ** (BEST_PSNR / 10)))


def ssim(a: Frames, b: Frames) -> Float[np.ndarray, "n"]:
    """Structural similarity, windows of 7 pixels, mean over the colours; 1 for equal frames.

    Raises:
        LociError: when scikit-image is missing.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise LociError(f"structural similarity needs scikit-image: {EXTRA}") from error
    pairs = zip(a, b, strict=True)
    return np.array([structural_similarity(x, y, channel_axis=2) for x, y in pairs])
