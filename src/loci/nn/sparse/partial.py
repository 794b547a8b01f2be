"""Running a network over voxels on some of them, the others staying as they were last seen.

A layer that mixes voxels (a convolution, an attention) needs features of voxels that are not
computed now. `KeptVoxels` keeps, for every such layer, what it saw of each voxel the last time.
The network is given one of its views instead of the plain `Voxels` and knows nothing of it.
"""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.nn.attention import mixed_values
from loci.nn.sparse.tensor import Coarsening, Groups, Pairs, Voxels


class KeptVoxels:
    """Voxels with what the mixing layers of one network last saw of them.

    Layers are told apart by the order in which they ask, so one object serves one network under
    one condition, for one run. It holds the inputs of every convolution and the keys and values
    of every attention: for the released latent flow about 60 kB of float32 per voxel.
    """

    def __init__(self, voxels: Voxels) -> None:
        self.voxels = voxels
        self._tables: list[Tensor] = []
        self._next = 0

    @property
    def empty(self) -> bool:
        """Nothing was evaluated yet, so no part can be."""
        return not self._tables

    def whole(self) -> Voxels:
        """All voxels: an evaluation over them gives what `voxels` gives, and is remembered."""
        self._next = 0
        return _View(self, self.voxels, None)

    def part(self, rows: Int[Tensor, "k"]) -> Voxels:
        """Some voxels. An evaluation over them takes and gives the features of `rows` alone.

        If nothing changed since the voxels were last evaluated, their features come out as from
        an evaluation of all.

        Args:
            rows: ascending; with a voxel, all of its block in every coarser set the network uses.

        Raises:
            ValueError: when nothing is kept yet, or the rows are no such rows.
        """
        if self.empty:
            raise ValueError("a part can be evaluated only after all voxels were")
        if bool((rows.diff() <= 0).any()):
            raise ValueError("rows must be ascending")
        self._next = 0
        return _View(self, self.voxels, rows)

    def merged(self, feats: Tensor, rows: Tensor | None) -> Tensor:
        """The asking layer's features of every voxel, with those of `rows` renewed."""
        place, self._next = self._next, self._next + 1
        if rows is None:
            self._tables[place : place + 1] = [feats]
        else:
            self._tables[place] = self._tables[place].index_copy(0, rows, feats)
        return self._tables[place]


class _View(Voxels):
    """Some rows of a voxel set, or all (`rows` None), as the layers of a network meet them."""

    def __init__(self, kept: KeptVoxels, base: Voxels, rows: Tensor | None) -> None:
        super().__init__(base.coords if rows is None else base.coords[rows])
        self.kept, self.base, self.rows = kept, base, rows

    def seen(self, feats: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
        return self.kept.merged(feats, self.rows)

    @cached_property
    def neighbours(self) -> tuple[Pairs, ...]:
        """Targets are rows of this view, sources rows of the whole set."""
        if self.rows is None:
            return self.base.neighbours
        place = torch.full((len(self.base),), -1, device=self.rows.device)
        place[self.rows] = torch.arange(len(self.rows), device=self.rows.device)
        here = []
        for target, source in self.base.neighbours:
            chosen = place[target] >= 0
            here.append(Pairs(place[target[chosen]], source[chosen]))
        return tuple(here)

    @cached_property
    def coarser(self) -> Coarsening:
        coarse, parent, children = self.base.coarser
        if self.rows is None:
            return Coarsening(_View(self.kept, coarse, None), parent, children)
        rows, own = torch.unique(parent[self.rows], return_inverse=True)
        if not torch.equal(own.bincount(minlength=len(rows)), children[rows]):
            raise ValueError("a part must hold whole blocks of voxels")
        return Coarsening(_View(self.kept, coarse, rows), own, children[rows])

    @cached_property
    def by_item(self) -> Groups:
        return _KeptGroups(self)

    def windows(self, size: int, shift: int = 0) -> Groups:
        raise NotImplementedError("attention in windows is not evaluated in part")


class _KeptGroups(Groups):
    """Queries of a view's rows, keys and values of every voxel of their item."""

    def __init__(self, view: _View) -> None:
        super().__init__(view.coords[:, 0])
        self.view = view

    def attend(
        self, q: Float[Tensor, "n h e"], k: Float[Tensor, "n h e"], v: Float[Tensor, "n h e"]
    ) -> Float[Tensor, "n h e"]:
        k, v = self.view.seen(k), self.view.seen(v)
        if self.view.rows is None:
            return super().attend(q, k, v)
        mixed, asking, asked = torch.empty_like(q), self.view.coords[:, 0], self.view.base.coords
        for item in asking.unique():
            of_item = asked[:, 0] == item
            queries, keys, values = (
                x.transpose(0, 1)[None] for x in (q[asking == item], k[of_item], v[of_item])
            )
            answer = mixed_values(queries, keys, values)
            mixed[asking == item] = answer[0].transpose(0, 1)
        return mixed
