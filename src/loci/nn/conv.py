"""Conv3d that calls oneDNN directly where PyTorch 2.13 picks a slow CPU kernel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` with the same results, several times faster on large volumes with few channels.

    For a single sample on a single CPU thread PyTorch does not use oneDNN. This layer does,
    whenever no gradient is needed.
    """

    def forward(self, input: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b d x2 y2 z2"]:
        if self.padding_mode != "zeros" or not _uses_onednn(input):
            return super().forward(input)
        assert not isinstance(self.padding, str)
        return torch.mkldnn_convolution(
            *(input.contiguous(), self.weight, self.bias),
            *(self.padding, self.stride, self.dilation, self.groups),
        )


def _uses_onednn(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and len(x) == 1
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
