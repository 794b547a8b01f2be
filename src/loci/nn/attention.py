"""Attention, its cache of keys and values, and feed-forward layers."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.cpu_inference import linear_gelu
from loci.nn.embeddings import RotaryEmbedding, apply_rotary
from loci.nn.norms import RMSNorm


def dot_product_attention(
    queries: Float[Tensor, "b h n e"],
    keys: Float[Tensor, "b h m e"],
    values: Float[Tensor, "b h m v"],
    mask: Bool[Tensor, "b #h #n m"] | None = None,
) -> Float[Tensor, "b h n v"]:
    """softmax(q k^T / sqrt(e)) v, over the keys where `mask` is true.

    Uses torch's fused kernel, except to train in bfloat16 on the CPU: the kernel's backward pass is
    several times slower there than explicit matrix products.
    """
    if not (queries.requires_grad and _is_bfloat16_on_cpu(queries)):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    q, k, v = (part.bfloat16() for part in (queries, keys, values))
    with torch.autocast("cpu", enabled=False):
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1) @ v


def _is_bfloat16_on_cpu(x: Tensor) -> bool:
    """Whether matrix products of x are computed in bfloat16 on the CPU."""
    if x.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype is torch.bfloat16


class KeysValues(NamedTuple):
    """Keys and values, `[batch, heads, tokens, head_dim]` each."""

    keys: Tensor
    values: Tensor


class KeyValueCache:
    """Keys and values of every token in every block, as of each token's last evaluation.

    With it a transformer can evaluate some tokens while they attend to all. One cache serves one
    sequence under one condition.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, KeysValues] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was evaluated yet; then all tokens must be."""
        return not self.blocks

    def update(self, block: int, new: KeysValues, indices: Int[Tensor, "k"] | None) -> KeysValues:
        """Stores what a block computed of the tokens at `indices` (None: of all); returns those of
        all tokens.

        Raises:
            ValueError: for `indices` in a block of which nothing is stored.
        """
        if indices is not None:
            if block not in self.blocks:
                raise ValueError("some tokens can be evaluated only after all of them were")
            pairs = zip(self.blocks[block], new, strict=True)
            new = KeysValues(*(torch.index_copy(old, 2, indices, part) for old, part in pairs))
        self.blocks[block] = new
        return new


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys, over the full width.

    Queries and keys are computed by separate methods, because they often come from different
    tokens and at different times (cached memory tokens, a cached prompt).

    Raises:
        ValueError: unless the width splits into heads of even width.
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
        self, x: Float[Tensor, "b n d"], rotary: RotaryEmbedding | None = None
    ) -> Float[Tensor, "b h n e"]:
        """Queries, normalised and rotated if `rotary` is given."""
        q = self._split(self.norm_q(self.q(x)))
        return q if rotary is None else apply_rotary(q, rotary)

    def keys_values(
        self, x: Float[Tensor, "b n d"], rotary: RotaryEmbedding | None = None
    ) -> KeysValues:
        """Normalised keys, rotated if `rotary` is given, and values."""
        k = self._split(self.norm_k(self.k(x)))
        return KeysValues(k if rotary is None else apply_rotary(k, rotary), self._split(self.v(x)))

    def attend(
        self, queries: Float[Tensor, "b h n e"], keys_values: KeysValues
    ) -> Float[Tensor, "b n d"]:
        """Attention output after the output projection."""
        attended = dot_product_attention(queries, *keys_values)
        return self.o(attended.transpose(1, 2).flatten(-2))

    def forward(
        self, x: Float[Tensor, "b n d"], rotary: RotaryEmbedding | None = None
    ) -> Float[Tensor, "b n d"]:
        """Self-attention."""
        return self.attend(self.queries(x, rotary), self.keys_values(x, rotary))


class CrossAttention(nn.Module):
    """Multi-head attention to a condition, without normalisation of queries and keys.

    The keys and values of a condition are computed once (`keys_values`) and reused at every step.

    Raises:
        ValueError: unless the width splits into heads.
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
        """Keys and values of the condition's tokens."""
        both = self.to_kv(condition).unflatten(-1, (2, self.heads, -1))
        return KeysValues(*both.transpose(1, 3).unbind(2))

    def unconditional(self) -> Float[Tensor, "1 1 d"]:
        """The output for a condition of all zeros, the same for every query.

        All values are then the bias of the value projection, and so is any weighted mean of them.
        """
        return self.to_out(self.to_kv.bias.chunk(2)[1])[None, None]

    def forward(self, x: Float[Tensor, "b n d"], keys_values: KeysValues) -> Float[Tensor, "b n d"]:
        """Attention output of the tokens."""
        queries = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        attended = dot_product_attention(queries, *keys_values)
        return self.to_out(attended.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim)
        )

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        widen, _, narrow = self.mlp
        return narrow(linear_gelu(widen, x))


class GatedFeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, out, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))
