"""Multi-head attention with full-width query-key norm and optional rotary positions."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.mixing import mixed_values
from loci.layers.norms import RMSNorm
from loci.layers.rotary import Rotation, rotate


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
