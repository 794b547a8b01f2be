"""Tables beside the linear layers: learned tokens and positions, and fixed ones.

On the meta device, where released models are built before their weights arrive, nothing is
computed: drawing and copying there imports torch's compiler, which takes seconds.
"""

import torch
from torch import Tensor, nn


def learned(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A parameter drawn from a normal distribution."""
    table = torch.empty(*shape)
    return nn.Parameter(table if table.is_meta else table.normal_(std=std))


def fixed(values: Tensor) -> Tensor:
    """A table made on the CPU, put where new tensors are made."""
    table = torch.empty(values.shape, dtype=values.dtype)
    return table if table.is_meta else table.copy_(values)
