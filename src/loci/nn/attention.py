"""softmax(q k^T / sqrt(d)) v, by whichever way is the faster."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.norms import RMSNorm
from loci.nn.rotary import Rotation, rotate


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


class KeysValues(NamedTuple):
    """Keys and values, `[batch, heads, tokens, head_dim]` each."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """softmax(q k^T / sqrt(head_dim)) v, with q and k normalised over the full width.

    Queries and keys-with-values are separate methods, because in both systems they often come
    from different tokens and at different times (a cached memory, a cached prompt).
    """

    def __init__(self, dim: int, heads: int, eps: float = 1e-6) -> None:
        super().__init__()
        if dim % heads or (dim // heads) % 2:
            raise ValueError(f"width {dim} does not split into {heads} heads of even width")
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def _split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n e"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def queries(
        self, x: Float[Tensor, "b n d"], at: Rotation | None = None
    ) -> Float[Tensor, "b h n e"]:
        """Normalised, split and (if positions are given) turned queries."""
        q = self._split(self.norm_q(self.q(x)))
        return q if at is None else rotate(q, at)

    def keys_values(self, x: Float[Tensor, "b n d"], at: Rotation | None = None) -> KeysValues:
        """Normalised keys (turned if positions are given) and values."""
        k = self._split(self.norm_k(self.k(x)))
        return KeysValues(k if at is None else rotate(k, at), self._split(self.v(x)))

    def attend(
        self, queries: Float[Tensor, "b h n e"], context: KeysValues
    ) -> Float[Tensor, "b n d"]:
        """Attention output after the output projection."""
        mixed = mixed_values(queries, *context)
        return self.o(mixed.transpose(1, 2).flatten(-2))

    def forward(
        self, x: Float[Tensor, "b n d"], at: Rotation | None = None
    ) -> Float[Tensor, "b n d"]:
        """Plain self-attention."""
        return self.attend(self.queries(x, at), self.keys_values(x, at))


class CrossAttention(nn.Module):
    """softmax(q k^T / sqrt(head_dim)) v without any norm of queries and keys.

    The keys and values of a condition are made once (`keys_values`) and serve every step. The
    empty condition, all zeros, needs no attention at all: see `unconditional`.
    """

    def __init__(self, dim: int, condition_dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not split into {heads} heads")
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(condition_dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)

    def keys_values(self, condition: Float[Tensor, "b m c"]) -> KeysValues:
        """What every query of a run will look at."""
        both = self.to_kv(condition).unflatten(-1, (2, self.heads, -1))
        return KeysValues(*both.transpose(1, 3).unbind(2))

    def unconditional(self) -> Float[Tensor, "1 1 d"]:
        """The answer to every query when the condition is all zeros.

        Then all keys are equal and every value is the bias, so any weights average to the bias
        (SAM 3D Objects, 4.4).
        """
        return self.to_out(self.to_kv.bias.chunk(2)[1])[None, None]

    def forward(self, x: Float[Tensor, "b n d"], context: KeysValues) -> Float[Tensor, "b n d"]:
        """What the tokens find in the condition."""
        queries = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = mixed_values(queries, *context)
        return self.to_out(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim)
        )

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.mlp(x)


class GatedFeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, out, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))
