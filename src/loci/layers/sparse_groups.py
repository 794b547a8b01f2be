"""Attention inside groups of tokens, without ever forming a matrix over all of them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loci.layers.mixing import mixed_values


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
