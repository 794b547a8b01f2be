"""Evaluating the transformer on some of a chunk's tokens, the others staying as last seen.

Only self-attention mixes a chunk's tokens. `CachedTokens` keeps, for every block, the keys and values
of all of them as they were at each token's last evaluation. The transformer is given one of its
views, computes the tokens of that view and lets them look at all.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.nn.attention import KeysValues
from loci.nn.rotary import Rotation

Seen = Callable[[KeysValues], KeysValues]
"""From the keys and values of the tokens that are computed to those of all that are looked at."""


class TokenView:
    """The tokens of a chunk that an evaluation computes: all of them, or some rows.

    By itself it makes the others absent; views of a `CachedTokens` keep them in sight.

    Args:
        rows: of the patch grid of a chunk, frame after frame, ascending; None for all.

    Raises:
        ValueError: when the rows are not ascending.
    """

    def __init__(self, rows: Int[Tensor, "k"] | None = None) -> None:
        if rows is not None and bool((rows.diff() <= 0).any()):
            raise ValueError("rows must be ascending")
        self.rows = rows

    def chosen(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b k d"]:
        """Of something that every token has, the rows of this view."""
        return x if self.rows is None else x[:, self.rows]

    def places(self, at: Rotation) -> Rotation:
        """The positions of this view's rows."""
        if self.rows is None:
            return at
        return Rotation(*(part[..., self.rows, :] for part in at))

    def seen(self, layer: int) -> Seen | None:
        """What a block's self-attention looks at besides the memory; None for the rows alone."""
        return None


class CachedTokens:
    """The keys and values that every block last had of a chunk's tokens.

    One object serves one chunk under one condition: what it holds says nothing of the next chunk.
    """

    def __init__(self) -> None:
        self.layers: dict[int, KeysValues] = {}

    @property
    def empty(self) -> bool:
        """Nothing was evaluated yet, so no part can be."""
        return not self.layers

    def whole(self) -> TokenView:
        """All tokens: an evaluation of them gives the same as without keeping."""
        return _KeptView(self, None)

    def part(self, rows: Int[Tensor, "k"]) -> TokenView:
        """Some tokens. If nothing changed since all were last evaluated, theirs come out the same.

        Args:
            rows: as for `TokenView`.

        Raises:
            ValueError: when nothing is kept yet, or the rows are not ascending.
        """
        if self.empty:
            raise ValueError("a part can be evaluated only after all tokens were")
        return _KeptView(self, rows)


class _KeptView(TokenView):
    def __init__(self, kept: CachedTokens, rows: Tensor | None) -> None:
        super().__init__(rows)
        self.kept = kept

    def seen(self, layer: int) -> Seen:
        return lambda own: self._renewed(layer, own)

    def _renewed(self, layer: int, own: KeysValues) -> KeysValues:
        if self.rows is not None:
            before = self.kept.layers[layer]
            pairs = zip(before, own, strict=True)
            own = KeysValues(*(torch.index_copy(old, 2, self.rows, new) for old, new in pairs))
        self.kept.layers[layer] = own
        return own
