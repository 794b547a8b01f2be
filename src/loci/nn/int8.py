"""Linear layers whose weights are kept as bytes, with a scale for each output channel.

Weights take half the memory of bfloat16. They are widened to the element type of the activations
when they are used, so that products are those of that type, with weights rounded to 255 levels of
the largest in their channel. For inference only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from loci.io.tensor_files import MappedRanges, give_back

LEVELS = 127


class Int8Linear(nn.Module):
    """A linear layer with int8 weights; activations and bias keep their type.

    Args:
        weight: as in `nn.Linear`, `[out, in]`.
        bias: `[out]`, or None.
        dtype: of the bias and, without activations to take it from, of the weights.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        rounded, scale = quantized(weight)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype, copy=True))

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        weight = self.weight.float().mul_(self.scale[:, None]).to(x.dtype)
        return F.linear(x, weight, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.scale.device)  # stays float32
        return self


def quantized(weight: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o i"], Float[Tensor, "o"]]:
    """Weights as `int8 * scale`, rounded to the nearest; the scale of every row is float32."""
    wide = weight.detach().float()
    scale = (wide.abs().amax(dim=1) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (wide / scale[:, None]).round().to(torch.int8), scale


def quantize_linears(module: nn.Module, dtype: torch.dtype) -> None:
    """Replaces every linear layer within a module, one at a time, by one with int8 weights.

    Args:
        module: its linear layers may be mapped files; their pages are given back.
        dtype: of the activations and biases.
    """
    ranges = MappedRanges()
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, Int8Linear(layer.weight, layer.bias, dtype))
                give_back(t for t in (layer.weight.data,) if ranges.holds(t))
