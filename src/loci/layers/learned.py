"""Learned vectors and tables that are no linear layer: tokens, positions."""

import torch
from torch import Tensor, nn


def learned(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A parameter drawn from a normal distribution.

    Drawn in place: arithmetic on the meta device, where released models are built before their
    weights arrive, would import several seconds of torch's compiler.
    """
    return nn.Parameter(nn.init.normal_(torch.empty(*shape), std=std))


def fixed(values: Tensor) -> Tensor:
    """A table made on the CPU, put where new tensors are made (nothing is copied to meta)."""
    table = torch.empty(values.shape, dtype=values.dtype)
    return table if table.is_meta else table.copy_(values)
