"""Attention from tokens to a condition that stays the same through a whole run."""

from jaxtyping import Float
from torch import Tensor, nn

from loci.layers.attention import KeysValues
from loci.layers.mixing import mixed_values


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
