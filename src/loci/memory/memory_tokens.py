"""Memory tokens by span, and the builder that computes them from latents and merges them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from loci.memory.hpmc import COMPRESSION
from loci.memory.poses import panorama_pose, view_pose
from loci.memory.schedule import Merges, Span


class Compressor(Protocol):
    """Compresses time by four: latents to memory tokens, and memory tokens to the next level."""

    def encode(
        self, latents: Float[Tensor, "b c t h w"], poses: Float[Tensor, "b t 3"] | None
    ) -> Float[Tensor, "b d t4 h2 w2"]: ...

    def merge(
        self, tokens: Float[Tensor, "b d 4 h2 w2"], poses: Float[Tensor, "b 4 4"] | None
    ) -> Float[Tensor, "b d 1 h2 w2"]: ...


@dataclass(frozen=True)
class MemoryTokens:
    """The memory tokens of k spans, oldest first: what the transformer attends to of the past.

    `poses` are (heading, x, y, spread) in float64: circular mean heading and mean position of the
    latents of a slot, or of the parts of a merged span, weighted by their lengths; and the arc that
    the headings of a merged span cover. Where headings cancel out, as over a full turn, the mean
    is arbitrary but deterministic. Raw latents used as memory tokens have no spread.
    """

    tokens: Float[Tensor, "b d k h w"]
    poses: Float[Tensor, "b k p"] | None
    spans: tuple[Span, ...]

    def select(self, indices: Sequence[int]) -> "MemoryTokens":
        """The spans at these indices, in the order given."""
        chosen = torch.tensor(indices, device=self.tokens.device, dtype=torch.long)
        poses = self.poses
        return MemoryTokens(
            self.tokens[:, :, chosen],
            None if poses is None else poses[:, chosen.to(poses.device)],
            tuple(self.spans[index] for index in indices),
        )


def concatenate(parts: Sequence[MemoryTokens]) -> MemoryTokens:
    """The spans of all parts, one after another."""
    poses = [part.poses for part in parts if part.poses is not None]
    return MemoryTokens(
        torch.cat([part.tokens for part in parts], dim=2),
        torch.cat(poses, dim=1) if poses else None,
        tuple(span for part in parts for span in part.spans),
    )


def split_spans(tokens: MemoryTokens) -> dict[Span, MemoryTokens]:
    """The memory tokens of each span by itself."""
    return {
        span: MemoryTokens(
            tokens.tokens[:, :, k : k + 1],
            None if tokens.poses is None else tokens.poses[:, k : k + 1],
            (span,),
        )
        for k, span in enumerate(tokens.spans)
    }


class MemoryTokenBuilder:
    """Computes memory tokens, by span: the working table of one `append` or `tokens` of a memory.

    It is made anew for every such call and holds no state of a walk. (`TokenCache` of
    `loci.acceleration` is something else: which noisy tokens a sampling step evaluates.)

    Args:
        compressor: what computes the tokens.
        batch: the most windows or groups in one call of the compressor.
        known: the tokens that are there already.
    """

    def __init__(
        self, compressor: Compressor, batch: int, known: MemoryTokens | None = None
    ) -> None:
        self.compressor = compressor
        self.batch = batch
        self.entries = {} if known is None else split_spans(known)

    def encode(
        self,
        first: int,
        latents: Float[Tensor, "b c t h w"],
        poses: Float[Tensor, "b t 3"] | None,
        window: int,
    ) -> None:
        """Adds the slots of latents that begin at index `first`: whole windows, or one partial."""
        length = latents.shape[2]
        windows = [slice(s, min(s + window, length)) for s in range(0, length, window)]
        for batch in _batches(windows, self.batch):
            batch_poses = None if poses is None else torch.cat([poses[:, part] for part in batch])
            stacked = torch.cat([latents[:, :, part] for part in batch])
            encoded = self.compressor.encode(stacked, batch_poses).chunk(len(batch))
            for part, tokens in zip(batch, encoded, strict=True):
                window_poses = None if poses is None else poses[:, part]
                slots = _slots(tokens, window_poses, first + part.start, first + part.stop)
                self.entries |= split_spans(slots)

    def merge(self, wanted: Iterable[Span], merges: Merges) -> None:
        """Adds the wanted spans, and those they are merged from, level by level."""
        missing: dict[Span, tuple[Span, ...]] = {}
        queue = list(wanted)
        for span in queue:
            if span not in self.entries:
                missing[span] = merges.get(span) or span.quarters
                queue.extend(missing[span])
        for level in sorted({span.level for span in missing}):
            group = [span for span in missing if span.level == level]
            for batch in _batches(group, self.batch):
                self._merge_batch({span: missing[span] for span in batch})

    def read(self, spans: Sequence[Span]) -> MemoryTokens:
        """The memory tokens of the given spans, which must be there."""
        return concatenate([self.entries[span] for span in spans])

    def _merge_batch(self, groups: dict[Span, tuple[Span, ...]]) -> None:
        stacks = [self.read(parts) for parts in groups.values()]
        poses = [stack.poses for stack in stacks if stack.poses is not None]
        stacked = torch.cat([stack.tokens for stack in stacks])
        merged = self.compressor.merge(stacked, torch.cat(poses) if poses else None)
        for span, stack, tokens in zip(groups, stacks, merged.chunk(len(stacks)), strict=True):
            pose = None
            if stack.poses is not None:
                lengths = torch.tensor([part.length for part in stack.spans], dtype=torch.float64)
                pose = panorama_pose(stack.poses, lengths)[:, None]
            self.entries[span] = MemoryTokens(tokens, pose, (span,))


def slot_spans(start: int, end: int) -> tuple[Span, ...]:
    """The spans of level one from `start` to `end`; the last may be short."""
    return tuple(Span(1, s, min(s + COMPRESSION, end)) for s in range(start, end, COMPRESSION))


def mean_poses(
    poses: Float[Tensor, "b t 3"], spans: Sequence[Span], start: int = 0
) -> Float[Tensor, "b k 4"]:
    """The mean pose of each span without spread; `poses` begin at latent `start`."""
    means = [view_pose(poses[:, span.start - start : span.end - start]) for span in spans]
    return torch.stack(means, dim=1)


def _slots(tokens: Tensor, poses: Tensor | None, start: int, end: int) -> MemoryTokens:
    spans = slot_spans(start, end)
    return MemoryTokens(tokens, None if poses is None else mean_poses(poses, spans, start), spans)


def _batches(items: Sequence, size: int) -> list[Sequence]:
    return [items[at : at + size] for at in range(0, len(items), size)]
