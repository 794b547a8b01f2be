"""3-D Gaussians with spherical harmonics of degree 0."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SH_BAND_0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi))."""


@dataclass(frozen=True)
class Gaussians:
    """Gaussian splats, of an object in its frame (z up, about [-0.5, 0.5]^3) or of a scene.

    Attributes:
        positions: means `[n, 3]`.
        harmonics: coefficients of the constant spherical harmonic, RGB `[n, 3]`.
        scales: standard deviations along the axes `[n, 3]`, positive.
        quaternions: rotations w, x, y, z `[n, 4]`, of any length but 0.
        opacity_logits: opacities before the sigmoid `[n]`.
    """

    positions: Float[Tensor, "n 3"]
    harmonics: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    quaternions: Float[Tensor, "n 4"]
    opacity_logits: Float[Tensor, "n"]

    def __len__(self) -> int:
        return self.positions.shape[0]

    @property
    def colors(self) -> Float[Tensor, "n 3"]:
        """RGB, not clipped to [0, 1]."""
        return 0.5 + SH_BAND_0 * self.harmonics

    @property
    def opacities(self) -> Float[Tensor, "n"]:
        """In (0, 1)."""
        return torch.sigmoid(self.opacity_logits)

    @property
    def rotations(self) -> Float[Tensor, "n 4"]:
        """Unit quaternions w, x, y, z."""
        return F.normalize(self.quaternions, dim=-1)
