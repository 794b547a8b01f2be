"""softmax(q k^T / sqrt(d)) v, by whichever way is the faster."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def mixed_values(
    queries: Float[Tensor, "b h n e"],
    keys: Float[Tensor, "b h m e"],
    values: Float[Tensor, "b h m v"],
    mask: Bool[Tensor, "b #h #n m"] | None = None,
) -> Float[Tensor, "b h n v"]:
    """Values weighed by how well their keys answer the queries, where `mask` is true.

    torch's fused kernel, except for bfloat16 on the CPU where a gradient is wanted: its backward
    pass takes several times as long there as that of the products written out.
    """
    if not (queries.requires_grad and _narrow_on_cpu(queries)):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    q, k, v = (part.bfloat16() for part in (queries, keys, values))
    with torch.autocast("cpu", enabled=False):
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1) @ v


def _narrow_on_cpu(x: Tensor) -> bool:
    """Whether products of it are computed in bfloat16 on the CPU."""
    if x.device.type != "cpu":
        return False
    given = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return given is torch.bfloat16
