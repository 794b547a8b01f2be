"""Evaluating a voxel network for some voxels, with cached features of the others.

Convolution and attention need features of voxels that are not evaluated. `VoxelCache` keeps the
latest ones for every such layer. The network takes one of its views in place of plain `Voxels`.
"""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.nn.attention import dot_product_attention
from loci.nn.sparse.voxels import Downsampled, Groups, Pairs, Voxels


class VoxelCache:
    """The latest inputs of every convolution and keys and values of every attention, per voxel.

    Layers are identified by the order in which they run, so a cache serves one network under one
    condition for one run. The published SLAT flow takes about 60 kB of float32 per voxel.
    """

    def __init__(self, voxels: Voxels) -> None:
        self.voxels = voxels
        self._tables: list[Tensor] = []
        self._next = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was evaluated yet; then no part can be."""
        return not self._tables

    def whole(self) -> Voxels:
        """All voxels: an evaluation with this view equals one with `voxels`, and is cached."""
        self._next = 0
        return _View(self, self.voxels, None)

    def part(self, indices: Int[Tensor, "k"]) -> Voxels:
        """Some voxels: an evaluation with this view takes and returns the features of these.

        If no voxel changed since its last evaluation, the result equals a full evaluation.

        Args:
            indices: ascending; whole blocks of every coarser voxel set that the network uses.

        Raises:
            ValueError: before a full evaluation, or for indices that are not such.
        """
        if self.empty:
            raise ValueError("a part can be evaluated only after all voxels were")
        if bool((indices.diff() <= 0).any()):
            raise ValueError("indices must be ascending")
        self._next = 0
        return _View(self, self.voxels, indices)

    def updated(self, feats: Tensor, indices: Tensor | None) -> Tensor:
        """The calling layer's features of every voxel, with those at `indices` updated."""
        layer, self._next = self._next, self._next + 1
        if indices is None:
            self._tables[layer : layer + 1] = [feats]
        else:
            self._tables[layer] = self._tables[layer].index_copy(0, indices, feats)
        return self._tables[layer]


class _View(Voxels):
    """Some voxels of a set, or all of them (`indices` None), with cached features of the rest."""

    def __init__(self, cache: VoxelCache, base: Voxels, indices: Tensor | None) -> None:
        super().__init__(base.coords if indices is None else base.coords[indices])
        self.cache, self.base, self.indices = cache, base, indices

    def with_cached(self, feats: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
        return self.cache.updated(feats, self.indices)

    @cached_property
    def neighbors(self) -> tuple[Pairs, ...]:
        """Targets are indices in this view, sources indices in the whole set."""
        if self.indices is None:
            return self.base.neighbors
        position = torch.full((len(self.base),), -1, device=self.indices.device)
        position[self.indices] = torch.arange(len(self.indices), device=self.indices.device)
        pairs = []
        for target, source in self.base.neighbors:
            chosen = position[target] >= 0
            pairs.append(Pairs(position[target[chosen]], source[chosen]))
        return tuple(pairs)

    @cached_property
    def coarser(self) -> Downsampled:
        coarse, parent, children = self.base.coarser
        if self.indices is None:
            return Downsampled(_View(self.cache, coarse, None), parent, children)
        parents, index = torch.unique(parent[self.indices], return_inverse=True)
        if not torch.equal(index.bincount(minlength=len(parents)), children[parents]):
            raise ValueError("a part must hold whole blocks of voxels")
        return Downsampled(_View(self.cache, coarse, parents), index, children[parents])

    @cached_property
    def by_item(self) -> Groups:
        return _CachedGroups(self)

    def windows(self, size: int, shift: int = 0) -> Groups:
        raise NotImplementedError("windowed attention cannot be evaluated for some voxels")


class _CachedGroups(Groups):
    """Queries of a view's voxels attend to every voxel of their item."""

    def __init__(self, view: _View) -> None:
        super().__init__(view.coords[:, 0])
        self.view = view

    def attend(
        self, q: Float[Tensor, "n h e"], k: Float[Tensor, "n h e"], v: Float[Tensor, "n h e"]
    ) -> Float[Tensor, "n h e"]:
        k, v = self.view.with_cached(k), self.view.with_cached(v)
        if self.view.indices is None:
            return super().attend(q, k, v)
        out, items = torch.empty_like(q), self.view.coords[:, 0]
        for item in items.unique():
            of_item = self.view.base.coords[:, 0] == item
            queries, keys, values = (
                x.transpose(0, 1)[None] for x in (q[items == item], k[of_item], v[of_item])
            )
            attended = dot_product_attention(queries, keys, values)
            out[items == item] = attended[0].transpose(0, 1)
        return out
