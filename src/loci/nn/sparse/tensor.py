"""Attention inside groups of tokens, without ever forming a matrix over all of them."""

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.attention import mixed_values


class Bucket(NamedTuple):
    """Groups of similar size, padded to the largest of them.

    `rows` `[groups, size]` are the members (where padded, any row), `real` `[groups, size]` tells
    members from padding and is None without any, `labels` `[groups]` are the groups' labels.
    """

    rows: Int[Tensor, "g l"]
    real: Bool[Tensor, "g l"] | None
    labels: Int[Tensor, "g"]


class Groups:
    """Rows with equal labels form a group.

    Groups are put into buckets whose sizes differ by less than a factor of sqrt(2), so that
    padding costs little and one call of attention serves many groups.
    """

    def __init__(self, labels: Int[Tensor, "n"]) -> None:
        order = labels.argsort(stable=True)
        names, counts = torch.unique_consecutive(labels[order], return_counts=True)
        starts = counts.cumsum(0) - counts
        classes = (2 * torch.log2(counts.float())).ceil().long()
        buckets, self._place = [], torch.empty_like(order)
        base = 0
        for size_class in torch.unique(classes).tolist():
            chosen = classes == size_class
            start, count = starts[chosen, None], counts[chosen, None]
            size = int(count.max())
            slots = torch.arange(size, device=labels.device)
            real = slots < count
            rows = order[(start + slots).clamp(max=labels.numel() - 1)]
            place = torch.arange(base, base + rows.numel(), device=labels.device)
            self._place[rows[real]] = place.view_as(rows)[real]
            base += rows.numel()
            buckets.append(Bucket(rows, None if bool(real.all()) else real, names[chosen]))
        self.buckets: tuple[Bucket, ...] = tuple(buckets)

    def attend(
        self, q: Float[Tensor, "n h e"], k: Float[Tensor, "n h e"], v: Float[Tensor, "n h e"]
    ) -> Float[Tensor, "n h e"]:
        """softmax(q k^T / sqrt(e)) v among the members of each group."""
        mixed = []
        for rows, real, _ in self.buckets:
            mask = None if real is None else real[:, None, None]
            parts = (part[rows].transpose(1, 2) for part in (q, k, v))
            mixed.append(mixed_values(*parts, mask=mask))
        return self._restore(mixed, q)

    def attend_to(
        self, q: Float[Tensor, "n h e"], k: Float[Tensor, "b h m e"], v: Float[Tensor, "b h m e"]
    ) -> Float[Tensor, "n h e"]:
        """Members of the group labelled i attend to the keys and values of row i."""
        mixed = []
        for rows, _, labels in self.buckets:
            queries = q[rows].transpose(1, 2)
            mixed.append(mixed_values(queries, k[labels], v[labels]))
        return self._restore(mixed, q)

    def _restore(self, mixed: list[Tensor], like: Tensor) -> Tensor:
        if not mixed:
            return torch.zeros_like(like)
        return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in mixed])[self._place]


NEIGHBOURHOOD = tuple((x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1))
"""Offsets of a 3x3x3 kernel in the order of its flattened weight; the middle one is (0, 0, 0)."""
MIDDLE = len(NEIGHBOURHOOD) // 2


class Pairs(NamedTuple):
    """Rows `source` that stand at a fixed offset from rows `target`; each target at most once."""

    target: Tensor
    source: Tensor


class Coarsening(NamedTuple):
    """The coarser voxels, the row `[n]` of each voxel's parent there, and how many children each
    parent has `[m]`."""

    voxels: "Voxels"
    parent: Tensor
    children: Tensor


class KeyIndex:
    """Finds the row that holds an integer key.

    Raises:
        ValueError: when a key occurs twice.
    """

    def __init__(self, keys: Int[Tensor, "n"]) -> None:
        self.keys, self.rows = keys.sort()
        if (self.keys[1:] == self.keys[:-1]).any():
            raise ValueError("voxel coordinates must be distinct")

    def find(self, keys: Int[Tensor, "m"]) -> Int[Tensor, "m"]:
        """Row of every key, -1 where there is none."""
        if self.keys.numel() == 0:
            return torch.full_like(keys, -1)
        place = torch.searchsorted(self.keys, keys).clamp(max=self.keys.numel() - 1)
        return torch.where(self.keys[place] == keys, self.rows[place], -1)


class Voxels:
    """Places of voxel tokens: distinct integer rows (item, x, y, z), items in ascending order.

    Raises:
        ValueError: when the coordinates are no such rows.
    """

    def __init__(self, coords: Int[Tensor, "n 4"]) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise ValueError(
                f"coordinates must be integers [n, 4], got {coords.dtype} {list(coords.shape)}"
            )
        self.coords = coords.long()
        if (self.coords[1:, 0] < self.coords[:-1, 0]).any():
            raise ValueError("the voxels of one item must stand together, items ascending")

    def __len__(self) -> int:
        return self.coords.shape[0]

    def seen(self, feats: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """What a layer that mixes voxels sees: the features themselves.

        Other views of a voxel set (`layers.sparse_part`) add what they keep of absent voxels.
        """
        return feats

    @cached_property
    def items(self) -> tuple[slice, ...]:
        """The rows of each item that has any."""
        counts = torch.unique_consecutive(self.coords[:, 0], return_counts=True)[1].tolist()
        ends = torch.tensor([0, *counts]).cumsum(0).tolist()
        return tuple(slice(start, end) for start, end in zip(ends, ends[1:], strict=False))

    @cached_property
    def neighbours(self) -> tuple[Pairs, ...]:
        """For every offset of `NEIGHBOURHOOD`, the pairs of rows that stand so.

        Half of the offsets are looked up; the others are the same pairs seen from the other side.
        """
        index = KeyIndex(_keys(self.coords, self.coords))
        everyone = torch.arange(len(self), device=self.coords.device)
        before = []
        for offset in NEIGHBOURHOOD[:MIDDLE]:
            step = self.coords.new_tensor((0, *offset))
            found = index.find(_keys(self.coords + step, self.coords))
            there = found >= 0
            before.append(Pairs(everyone[there], found[there]))
        after = [Pairs(pair.source, pair.target) for pair in reversed(before)]
        return (*before, Pairs(everyone, everyone), *after)

    @cached_property
    def coarser(self) -> Coarsening:
        """Every 2x2x2 block with a voxel in it; parents in lexicographic order."""
        halved = self.coords.clone()
        halved[:, 1:] = torch.div(halved[:, 1:], 2, rounding_mode="floor")
        keys, parent, children = torch.unique(
            _keys(halved, halved), return_inverse=True, return_counts=True
        )
        coords = halved.new_empty(keys.numel(), 4)
        coords[parent] = halved
        return Coarsening(Voxels(coords), parent, children)

    @cached_property
    def finer(self) -> "Voxels":
        """Every voxel's eight children, together, the last axis fastest."""
        corners = torch.cartesian_prod(*(torch.arange(2, device=self.coords.device),) * 3)
        coords = self.coords.repeat_interleave(8, dim=0)
        coords[:, 1:] = coords[:, 1:] * 2 + corners.repeat(len(self), 1)
        return Voxels(coords)

    @cached_property
    def by_item(self) -> Groups:
        """All voxels of one item attend to each other."""
        return Groups(self.coords[:, 0])

    def windows(self, size: int, shift: int = 0) -> Groups:
        """Voxels with equal (coordinate + shift) // size attend to each other.

        The shift moves the windows and does not wrap at the border (SAM 3D Objects, as released).
        """
        if (size, shift) not in self._windows:
            window = self.coords.clone()
            window[:, 1:] = torch.div(window[:, 1:] + shift, size, rounding_mode="floor")
            self._windows[size, shift] = Groups(_keys(window, window))
        return self._windows[size, shift]

    @cached_property
    def _windows(self) -> dict[tuple[int, int], Groups]:
        return {}


def _keys(coords: Int[Tensor, "m 4"], within: Tensor) -> Int[Tensor, "m"]:
    """One integer per row, in lexicographic order.

    Distinct for distinct rows that lie in the box around `within` grown by one on all sides.
    """
    if within.shape[0] == 0:
        return coords[:, 0]
    low, high = within.amin(0) - 1, within.amax(0) + 1
    extent = high - low + 1
    item, x, y, z = (coords - low).unbind(1)
    return ((item * extent[1] + x) * extent[2] + y) * extent[3] + z


def downsample(feats: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "m c"]:
    """Features of the parents: the sum of the children over their number plus one.

    The released weights were trained with a mean that counts its zero start (SAM 3D Objects, 8).
    """
    coarse = voxels.coarser
    total = feats.new_zeros(len(coarse.voxels), feats.shape[1], dtype=torch.float32)
    total = total.index_add(0, coarse.parent, feats.float())
    return (total / (coarse.children + 1)[:, None]).to(feats.dtype)


def upsample(feats: Float[Tensor, "m c"], fine: Voxels) -> Float[Tensor, "n c"]:
    """Every voxel of `fine` takes the feature of its parent."""
    return feats[fine.coarser.parent]


def subdivide(feats: Float[Tensor, "n c"]) -> Float[Tensor, "n8 c"]:
    """Every voxel's feature for each of its children in `Voxels.finer`."""
    return feats.repeat_interleave(8, dim=0)


class SparseGroupNorm(nn.GroupNorm):
    """Statistics over a group's channels and all voxels of an item; computed in float32."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, feats: Float[Tensor, "n c"], voxels: Voxels
    ) -> Float[Tensor, "n c"]:
        weight, bias = self.weight.float(), self.bias.float()
        normed = [
            F.group_norm(feats[rows].float().T[None], self.num_groups, weight, bias, self.eps)[0].T
            for rows in voxels.items
        ]
        return torch.cat(normed).to(feats.dtype) if normed else feats
