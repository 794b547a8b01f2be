"""Codes of the past, and the book in which they are made from latents and from one another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from loci.memory.hpmc import RATE
from loci.memory.poses import panorama_pose, view_pose
from loci.memory.schedule import Folds, Span


class Compressor(Protocol):
    """Four to one in time, twice: latents to codes of level one, codes to the next level."""

    def encode(
        self, latents: Float[Tensor, "b c t h w"], poses: Float[Tensor, "b t 3"] | None
    ) -> Float[Tensor, "b d t4 h2 w2"]: ...

    def merge(
        self, codes: Float[Tensor, "b d 4 h2 w2"], poses: Float[Tensor, "b 4 4"] | None
    ) -> Float[Tensor, "b d 1 h2 w2"]: ...


@dataclass(frozen=True)
class MemoryTokens:
    """What the transformer reads of the past, oldest first.

    `poses` are (heading, x, y, spread) in float64: circular mean of the headings and mean place,
    of the latents for a code of level one, of its parts (weighted by their lengths) for a merged
    one, and the arc that a merged one's headings span. Where headings cancel out, as over a full
    spin, the mean is arbitrary but fixed. Raw latents as codes have no spread.
    """

    tokens: Float[Tensor, "b d k h w"]
    poses: Float[Tensor, "b k p"] | None
    spans: tuple[Span, ...]


def gather(parts: Sequence[MemoryTokens]) -> MemoryTokens:
    """Codes one after another."""
    poses = [part.poses for part in parts if part.poses is not None]
    return MemoryTokens(
        torch.cat([part.tokens for part in parts], dim=2),
        torch.cat(poses, dim=1) if poses else None,
        tuple(span for part in parts for span in part.spans),
    )


def split(codes: MemoryTokens) -> dict[Span, MemoryTokens]:
    """Every code on its own."""
    return {
        span: MemoryTokens(
            codes.tokens[:, :, k : k + 1],
            None if codes.poses is None else codes.poses[:, k : k + 1],
            (span,),
        )
        for k, span in enumerate(codes.spans)
    }


class MemoryTokenCache:
    """Codes by span while they are being made; starts from those already `known`.

    At most `batch` windows or groups go through the compressor in one call.
    """

    def __init__(
        self, compressor: Compressor, batch: int, known: MemoryTokens | None = None
    ) -> None:
        self.compressor = compressor
        self.batch = batch
        self.codes = {} if known is None else split(known)

    def encode(
        self,
        first: int,
        latents: Float[Tensor, "b c t h w"],
        poses: Float[Tensor, "b t 3"] | None,
        window: int,
    ) -> None:
        """Add the slots of latents that begin at `first`: whole windows, or one partial one."""
        length = latents.shape[2]
        cuts = [slice(s, min(s + window, length)) for s in range(0, length, window)]
        for some in _batches(cuts, self.batch):
            where = None if poses is None else torch.cat([poses[:, cut] for cut in some])
            stacked = torch.cat([latents[:, :, cut] for cut in some])
            made = self.compressor.encode(stacked, where).chunk(len(some))
            for cut, tokens in zip(some, made, strict=True):
                within = None if poses is None else poses[:, cut]
                self.codes |= split(_slots(tokens, within, first + cut.start, first + cut.stop))

    def merge(self, wanted: Iterable[Span], folds: Folds) -> None:
        """Add the wanted spans, and whatever they are merged from, level by level."""
        missing: dict[Span, tuple[Span, ...]] = {}
        queue = list(wanted)
        for span in queue:
            if span not in self.codes:
                missing[span] = folds.get(span) or span.quarters
                queue.extend(missing[span])
        for level in sorted({span.level for span in missing}):
            group = [span for span in missing if span.level == level]
            for some in _batches(group, self.batch):
                self._merge_batch({span: missing[span] for span in some})

    def read(self, spans: Sequence[Span]) -> MemoryTokens:
        """The codes of the given spans, which must have been made."""
        return gather([self.codes[span] for span in spans])

    def _merge_batch(self, groups: dict[Span, tuple[Span, ...]]) -> None:
        stacks = [self.read(parts) for parts in groups.values()]
        where = [stack.poses for stack in stacks if stack.poses is not None]
        stacked = torch.cat([stack.tokens for stack in stacks])
        made = self.compressor.merge(stacked, torch.cat(where) if where else None)
        for span, stack, token in zip(groups, stacks, made.chunk(len(stacks)), strict=True):
            pose = None
            if stack.poses is not None:
                lengths = torch.tensor([part.length for part in stack.spans], dtype=torch.float64)
                pose = panorama_pose(stack.poses, lengths)[:, None]
            self.codes[span] = MemoryTokens(token, pose, (span,))


def slot_spans(start: int, end: int) -> tuple[Span, ...]:
    """The spans of level one from `start` to `end`; the last may be short."""
    return tuple(Span(1, s, min(s + RATE, end)) for s in range(start, end, RATE))


def mean_poses(
    poses: Float[Tensor, "b t 3"], spans: Sequence[Span], start: int = 0
) -> Float[Tensor, "b k 4"]:
    """The mean pose of each span, of poses that begin at latent `start`; no spread."""
    means = [view_pose(poses[:, span.start - start : span.end - start]) for span in spans]
    return torch.stack(means, dim=1)


def _slots(tokens: Tensor, poses: Tensor | None, start: int, end: int) -> MemoryTokens:
    spans = slot_spans(start, end)
    return MemoryTokens(tokens, None if poses is None else mean_poses(poses, spans, start), spans)


def _batches(items: Sequence, size: int) -> list[Sequence]:
    return [items[at : at + size] for at in range(0, len(items), size)]
