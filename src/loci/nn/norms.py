"""Normalization, adaLN modulation, and initialized parameters.

Tensors on the meta device, where published models are built before their weights are loaded, are
left uninitialised: drawing or copying there imports torch's compiler, which takes seconds.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.cpu_inference import (
    infers_bfloat16_on_cpu,
    modulated_layer_norm,
    shares_modulation,
)


def normal_parameter(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A parameter initialized from a normal distribution."""
    tensor = torch.empty(*shape)
    return nn.Parameter(tensor if tensor.is_meta else tensor.normal_(std=std))


def constant_tensor(values: Tensor) -> Tensor:
    """A copy of a CPU tensor on the current default device."""
    tensor = torch.empty(values.shape, dtype=values.dtype)
    return tensor if tensor.is_meta else tensor.copy_(values)


def layer_norm(x: Float[Tensor, "... d"], eps: float = 1e-6) -> Float[Tensor, "... d"]:
    """LayerNorm over the last axis without learned parameters, computed in float32."""
    if infers_bfloat16_on_cpu(x):  # the kernel widens by itself
        return F.layer_norm(x, x.shape[-1:], eps=eps)
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


class AffineLayerNorm(nn.LayerNorm):
    """LayerNorm with weight and bias, computed in float32 for any input dtype."""

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        weight, bias = self.weight.float(), self.bias.float()
        if infers_bfloat16_on_cpu(x):
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis.

    The normalised value is cast back before it is multiplied by the weight, the order that the
    published weights were trained with; in bfloat16 it affects the last bit.
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
    """x / max(|x|, 1e-12) * sqrt(d) * gamma over the last axis, with one gamma per head."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, dim))

    def forward(self, x: Float[Tensor, "b n heads d"]) -> Float[Tensor, "b n heads d"]:
        unit = F.normalize(x.float(), dim=-1)
        return (unit * self.gamma.float() * x.shape[-1] ** 0.5).to(x.dtype)


class Modulation(NamedTuple):
    """adaLN vectors `[..., d]`: three for attention, three for the feed-forward layer."""

    shift1: Tensor
    scale1: Tensor
    gate1: Tensor
    shift2: Tensor
    scale2: Tensor
    gate2: Tensor


def modulate(
    normed: Float[Tensor, "... d"], shift: Float[Tensor, "... d"], scale: Float[Tensor, "... d"]
) -> Float[Tensor, "... d"]:
    """normed * (1 + scale) + shift in the widest dtype, returned in that of `normed`."""
    return (normed * (1 + scale) + shift).to(normed.dtype)


def modulated_norm(
    x: Float[Tensor, "... d"],
    shift: Float[Tensor, "... d"],
    scale: Float[Tensor, "... d"],
    eps: float = 1e-6,
) -> Float[Tensor, "... d"]:
    """`modulate` of `layer_norm`; in one pass where that is possible."""
    if infers_bfloat16_on_cpu(x) and shares_modulation(x, scale):
        return modulated_layer_norm(x, shift, scale, eps)
    return modulate(layer_norm(x, eps), shift, scale)


def gated_residual(
    x: Float[Tensor, "... d"], update: Float[Tensor, "... d"], gate: Float[Tensor, "... d"]
) -> Float[Tensor, "... d"]:
    """x + update * gate in the widest dtype, returned in that of `x`."""
    return (x + update * gate).to(x.dtype)
