"""Voxel sets: their neighbours, coarser and finer sets, and attention within groups."""

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from loci.nn.attention import dot_product_attention


class Bucket(NamedTuple):
    """Groups of similar size, padded to the largest of them.

    Attributes:
        members: indices of the members of each group; any index where padded.
        real: False where padded; None without padding.
        group_ids: of the groups.
    """

    members: Int[Tensor, "g l"]
    real: Bool[Tensor, "g l"] | None
    group_ids: Int[Tensor, "g"]


class Groups:
    """Tokens with equal ids form a group; attention is computed within groups.

    Each bucket holds groups whose sizes differ by less than a factor of sqrt(2): one attention
    call serves many groups with little padding.
    """

    def __init__(self, group_ids: Int[Tensor, "n"]) -> None:
        order = group_ids.argsort(stable=True)
        names, counts = torch.unique_consecutive(group_ids[order], return_counts=True)
        starts = counts.cumsum(0) - counts
        classes = (2 * torch.log2(counts.float())).ceil().long()
        buckets, self._position = [], torch.empty_like(order)
        base = 0
        for size_class in torch.unique(classes).tolist():
            chosen = classes == size_class
            start, count = starts[chosen, None], counts[chosen, None]
            size = int(count.max())
            slots = torch.arange(size, device=group_ids.device)
            real = slots < count
            members = order[(start + slots).clamp(max=group_ids.numel() - 1)]
            position = torch.arange(base, base + members.numel(), device=group_ids.device)
            self._position[members[real]] = position.view_as(members)[real]
            base += members.numel()
            buckets.append(Bucket(members, None if bool(real.all()) else real, names[chosen]))
        self.buckets: tuple[Bucket, ...] = tuple(buckets)

    def attend(
        self, q: Float[Tensor, "n h e"], k: Float[Tensor, "n h e"], v: Float[Tensor, "n h e"]
    ) -> Float[Tensor, "n h e"]:
        """Attention among the members of each group."""
        attended = []
        for members, real, _ in self.buckets:
            mask = None if real is None else real[:, None, None]
            parts = (part[members].transpose(1, 2) for part in (q, k, v))
            attended.append(dot_product_attention(*parts, mask=mask))
        return self._restore(attended, q)

    def attend_to(
        self, q: Float[Tensor, "n h e"], k: Float[Tensor, "b h m e"], v: Float[Tensor, "b h m e"]
    ) -> Float[Tensor, "n h e"]:
        """Attention of the group with id i to entry i of the keys and values."""
        attended = []
        for members, _, group_ids in self.buckets:
            queries = q[members].transpose(1, 2)
            attended.append(dot_product_attention(queries, k[group_ids], v[group_ids]))
        return self._restore(attended, q)

    def _restore(self, attended: list[Tensor], like: Tensor) -> Tensor:
        if not attended:
            return torch.zeros_like(like)
        return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in attended])[self._position]


NEIGHBORHOOD = tuple((x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1))
"""Offsets of a 3x3x3 kernel in the order of its flattened weight."""
MIDDLE = len(NEIGHBORHOOD) // 2


class Pairs(NamedTuple):
    """Voxel indices: `source` lies at a fixed offset from `target`, each once at most."""

    target: Tensor
    source: Tensor


class Downsampled(NamedTuple):
    """Coarser voxels, the index of each voxel's parent `[n]`, and numbers of children `[m]`."""

    voxels: "Voxels"
    parent: Tensor
    children: Tensor


class KeyIndex:
    """Finds the index of an integer key.

    Raises:
        ValueError: if a key occurs twice.
    """

    def __init__(self, keys: Int[Tensor, "n"]) -> None:
        self.keys, self.indices = keys.sort()
        if (self.keys[1:] == self.keys[:-1]).any():
            raise ValueError("voxel coordinates must be distinct")

    def find(self, keys: Int[Tensor, "m"]) -> Int[Tensor, "m"]:
        """The index of every key, -1 for keys that do not occur."""
        if self.keys.numel() == 0:
            return torch.full_like(keys, -1)
        position = torch.searchsorted(self.keys, keys).clamp(max=self.keys.numel() - 1)
        return torch.where(self.keys[position] == keys, self.indices[position], -1)


class Voxels:
    """Coordinates of voxel tokens: distinct integers (item, x, y, z), items ascending.

    Raises:
        ValueError: for coordinates of another form or order.
    """

    def __init__(self, coords: Int[Tensor, "n 4"]) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise ValueError(
                f"coordinates must be integers [n, 4], got {coords.dtype} {list(coords.shape)}"
            )
        self.coords = coords.long()
        if (self.coords[1:, 0] < self.coords[:-1, 0]).any():
            raise ValueError("voxels must be sorted by item")

    def __len__(self) -> int:
        return self.coords.shape[0]

    def with_cached(self, feats: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The features that convolution and attention read: those given.

        The views of `loci.nn.sparse.partial_voxels` add cached features of other voxels.
        """
        return feats

    @cached_property
    def items(self) -> tuple[slice, ...]:
        """The voxels of each item that has any."""
        counts = torch.unique_consecutive(self.coords[:, 0], return_counts=True)[1].tolist()
        ends = torch.tensor([0, *counts]).cumsum(0).tolist()
        return tuple(slice(start, end) for start, end in zip(ends, ends[1:], strict=False))

    @cached_property
    def neighbors(self) -> tuple[Pairs, ...]:
        """For every offset of `NEIGHBORHOOD`, the pairs of voxels at that offset.

        Half of the offsets are looked up; the others are the same pairs the other way round.
        """
        index = KeyIndex(_keys(self.coords, self.coords))
        indices = torch.arange(len(self), device=self.coords.device)
        before = []
        for offset in NEIGHBORHOOD[:MIDDLE]:
            step = self.coords.new_tensor((0, *offset))
            found = index.find(_keys(self.coords + step, self.coords))
            exists = found >= 0
            before.append(Pairs(indices[exists], found[exists]))
        after = [Pairs(pair.source, pair.target) for pair in reversed(before)]
        return (*before, Pairs(indices, indices), *after)

    @cached_property
    def coarser(self) -> Downsampled:
        """The 2x2x2 blocks that hold a voxel, in lexicographic order."""
        halved = self.coords.clone()
        halved[:, 1:] = torch.div(halved[:, 1:], 2, rounding_mode="floor")
        keys, parent, children = torch.unique(
            _keys(halved, halved), return_inverse=True, return_counts=True
        )
        coords = halved.new_empty(keys.numel(), 4)
        coords[parent] = halved
        return Downsampled(Voxels(coords), parent, children)

    @cached_property
    def finer(self) -> "Voxels":
        """The eight children of every voxel, one voxel after the other, the last axis fastest."""
        corners = torch.cartesian_prod(*(torch.arange(2, device=self.coords.device),) * 3)
        coords = self.coords.repeat_interleave(8, dim=0)
        coords[:, 1:] = coords[:, 1:] * 2 + corners.repeat(len(self), 1)
        return Voxels(coords)

    @cached_property
    def by_item(self) -> Groups:
        """All voxels of an item attend to each other."""
        return Groups(self.coords[:, 0])

    def windows(self, size: int, shift: int = 0) -> Groups:
        """Voxels with equal (coordinate + shift) // size attend to each other.

        As in SAM 3D Objects, shifted windows do not wrap at the border.
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
    """One integer per voxel that keeps the lexicographic order.

    Unique for voxels inside the bounding box of `within` grown by one on all sides.
    """
    if within.shape[0] == 0:
        return coords[:, 0]
    low, high = within.amin(0) - 1, within.amax(0) + 1
    extent = high - low + 1
    item, x, y, z = (coords - low).unbind(1)
    return ((item * extent[1] + x) * extent[2] + y) * extent[3] + z


def downsample(feats: Float[Tensor, "n c"], voxels: Voxels) -> Float[Tensor, "m c"]:
    """Features of the parents: the sum of the children over their number plus one.

    The published weights were trained with this mean, which counts its zero start as a child.
    """
    coarse = voxels.coarser
    total = feats.new_zeros(len(coarse.voxels), feats.shape[1], dtype=torch.float32)
    total = total.index_add(0, coarse.parent, feats.float())
    return (total / (coarse.children + 1)[:, None]).to(feats.dtype)


def upsample(feats: Float[Tensor, "m c"], fine: Voxels) -> Float[Tensor, "n c"]:
    """Each voxel of `fine` gets the features of its parent."""
    return feats[fine.coarser.parent]


def subdivide(feats: Float[Tensor, "n c"]) -> Float[Tensor, "n8 c"]:
    """Each child in `Voxels.finer` gets the features of its parent."""
    return feats.repeat_interleave(8, dim=0)


class SparseGroupNorm(nn.GroupNorm):
    """GroupNorm over all voxels of an item; computed in float32."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, feats: Float[Tensor, "n c"], voxels: Voxels
    ) -> Float[Tensor, "n c"]:
        weight, bias = self.weight.float(), self.bias.float()
        normed = [
            F.group_norm(feats[indices].float().T[None], self.num_groups, weight, bias, self.eps)[
                0
            ].T
            for indices in voxels.items
        ]
        return torch.cat(normed).to(feats.dtype) if normed else feats
