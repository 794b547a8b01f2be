"""Normalisations. All compute in float32 and return the type of their input."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def layer_norm(x: Float[Tensor, "... d"], eps: float = 1e-6) -> Float[Tensor, "... d"]:
    """LayerNorm over the last axis without learned parameters."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


class AffineLayerNorm(nn.LayerNorm):
    """LayerNorm with weight and bias, computed in float32 whatever the type of the input."""

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis.

    The normalised value is cast back before it is multiplied by the weight: in bfloat16 the
    order shows in the last bit, and released weights were trained with this one.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class HeadRMSNorm(nn.Module):
    """x / max(|x|, 1e-12) * sqrt(d) * gamma over the last axis, with a gamma for every head."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, dim))

    def forward(self, x: Float[Tensor, "b n heads d"]) -> Float[Tensor, "b n heads d"]:
        unit = F.normalize(x.float(), dim=-1)
        return (unit * self.gamma.float() * x.shape[-1] ** 0.5).to(x.dtype)
