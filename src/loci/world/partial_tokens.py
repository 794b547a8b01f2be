"""Evaluating the transformer on some of a chunk's tokens while the others stay cached.

Only self-attention mixes the tokens of a chunk. `CachedTokens` holds the keys and values of all of
them in every block, as of each token's last evaluation. The transformer is given one of its views,
computes the tokens of that view and lets them attend to all.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.nn.attention import KeysValues
from loci.nn.rotary import RotaryEmbedding

ExtendKeys = Callable[[KeysValues], KeysValues]
"""From the keys and values of the tokens that are computed to those of all that are attended to."""


class TokenView:
    """The tokens of a chunk that an evaluation computes: all, or some rows.

    In itself the other tokens are absent; in a view of `CachedTokens` they are attended to.

    Args:
        rows: indices of tokens of the chunk, ascending; None for all.

    Raises:
        ValueError: when the rows are not ascending.
    """

    def __init__(self, rows: Int[Tensor, "k"] | None = None) -> None:
        if rows is not None and bool((rows.diff() <= 0).any()):
            raise ValueError("rows must be ascending")
        self.rows = rows

    def select(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b k d"]:
        """The rows of this view of a value per token."""
        return x if self.rows is None else x[:, self.rows]

    def rotation(self, rotation: RotaryEmbedding) -> RotaryEmbedding:
        """The rotary positions of this view's rows."""
        if self.rows is None:
            return rotation
        return RotaryEmbedding(*(part[..., self.rows, :] for part in rotation))

    def key_extender(self, block: int) -> ExtendKeys | None:
        """How a block extends its keys and values; None to attend to the rows only."""
        return None


class CachedTokens:
    """The last keys and values of a chunk's tokens in every block.

    One object serves one chunk under one condition.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, KeysValues] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was evaluated yet."""
        return not self.blocks

    def whole(self) -> TokenView:
        """A view of all tokens; the result is the same as without a cache."""
        return _CachedView(self, None)

    def part(self, rows: Int[Tensor, "k"]) -> TokenView:
        """A view of some tokens.

        Args:
            rows: as for `TokenView`.

        Raises:
            ValueError: when the cache is empty, or the rows are not ascending.
        """
        if self.empty:
            raise ValueError("a part can be evaluated only after all tokens were")
        return _CachedView(self, rows)


class _CachedView(TokenView):
    def __init__(self, cache: CachedTokens, rows: Tensor | None) -> None:
        super().__init__(rows)
        self.cache = cache

    def key_extender(self, block: int) -> ExtendKeys:
        return lambda computed: self._update(block, computed)

    def _update(self, block: int, computed: KeysValues) -> KeysValues:
        if self.rows is not None:
            pairs = zip(self.cache.blocks[block], computed, strict=True)
            computed = KeysValues(*(torch.index_copy(old, 2, self.rows, new) for old, new in pairs))
        self.cache.blocks[block] = computed
        return computed
