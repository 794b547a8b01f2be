"""Fewer passes over memory for inference in bfloat16 on the CPU.

Beside fast matrix products, passes over large tensors and their conversions to float32 and back are
what counts. Each function here computes what its plain form computes, but rounds to bfloat16 once
instead of twice; elsewhere (other devices and types, training, autocast, compilation) callers use
the plain form.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def infers_bfloat16_on_cpu(x: Tensor) -> bool:
    """Whether x is in bfloat16 on the CPU and nothing is learned, traced or cast automatically."""
    return (
        x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def linear_gelu(
    layer: nn.Module, x: Float[Tensor, "... i"], approximate: Literal["none", "tanh"] = "tanh"
) -> Float[Tensor, "... o"]:
    """gelu(layer(x)).

    For a plain linear layer, oneDNN applies GELU to the product's float32 sums: torch's own GELU in
    bfloat16 takes half as long as the product before it.
    """
    if type(layer) is nn.Linear and infers_bfloat16_on_cpu(x) and _has_bfloat16_products():
        fused = torch.ops.mkldnn._linear_pointwise
        return fused(x, layer.weight, layer.bias, "gelu", [], approximate)
    return F.gelu(layer(x), approximate=approximate)


def shares_modulation(x: Float[Tensor, "... n d"], vector: Tensor) -> bool:
    """Whether one modulation vector serves all tokens of x."""
    return vector.numel() == x.shape[-1] and (x.ndim == 2 or len(x) == 1)


def modulated_layer_norm(
    x: Float[Tensor, "... n d"], shift: Tensor, scale: Tensor, eps: float
) -> Float[Tensor, "... n d"]:
    """layer_norm(x) * (1 + scale) + shift, for one vector each (`shares_modulation`)."""
    weight, bias = 1 + scale.float().flatten(), shift.float().flatten()
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rotated_pairs(
    x: Float[Tensor, "b h n d"], cos: Float[Tensor, "*b n p"], sin: Float[Tensor, "*b n p"]
) -> Float[Tensor, "b h n d"]:
    """The channel pairs (2j, 2j+1) as complex numbers, turned."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2).to(x.dtype)


def _has_bfloat16_products() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
