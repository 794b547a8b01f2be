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
    pass takes from three to fifteen times as long there as that of the products written out.
    """
    narrow = queries.dtype is torch.bfloat16 and queries.device.type == "cpu"
    if not (narrow and queries.requires_grad):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.to(queries.dtype).mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1) @ values.to(queries.dtype)
