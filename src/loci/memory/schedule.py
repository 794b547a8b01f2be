"""The merge schedule: into which spans a history is divided at any length, without tensors.

Latents arrive one by one. Every four make a slot, a span of level one. When there are more spans
than the budget allows, four neighbours merge into one span of the next level, as in a
log-structured merge tree. Groups are aligned to multiples of their own size, so that the memory
tokens of a span do not depend on when it was merged, and no span is ever divided again.

Which group merges first depends on age, or on views: first those which other spans show as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool

from loci.memory.hpmc import COMPRESSION


class Span(NamedTuple):
    """Latents `start` to `end` (exclusive) of the history, compressed `level` times.

    A span of level l covers COMPRESSION ** l latents. Only two can be shorter: the newest slot
    until it is full, and the oldest span once unaligned spans had to be merged.
    """

    level: int
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def complete(self) -> bool:
        return self.length == COMPRESSION**self.level

    @property
    def quarters(self) -> tuple["Span", ...]:
        """The four spans of the level below from which an aligned span is merged."""
        size = COMPRESSION ** (self.level - 1)
        starts = range(self.start, self.end, size)
        return tuple(Span(self.level - 1, start, start + size) for start in starts)


@dataclass(frozen=True)
class MergeConfig:
    """How a history is divided.

    Args:
        window: latents that are encoded together, into `window / 4` slots; 4 times a power of two,
            so that no aligned span crosses a window.
        budget: the most spans at any length, keyframes included.
        recent: the newest spans, merged only when nothing else can be. Each makes the past coarser;
            with 0 the newest 3 or 4 spans are of level one anyway.
        merge_by: what is merged first: the oldest group of the lowest level ("age"), or the group
            with the fewest views that no other span shows at the same level or below ("views";
            needs poses).
        keyframes: slots of the budget reserved for spans of level one that are never merged
            (`memory/keyframes.py`; needs poses).
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {"keepsakes": "keyframes", "follow": "merge_by"}

    window: int = 8
    budget: int = 20
    recent: int = 0
    merge_by: Literal["age", "views"] = "age"
    keyframes: int = 0

    @property
    def max_merged_spans(self) -> int:
        """The most spans that the history is divided into, keyframes not counted."""
        return self.budget - self.keyframes

    @property
    def posed(self) -> bool:
        """Whether every latent needs a pose."""
        return self.merge_by == "views" or self.keyframes > 0

    def __post_init__(self) -> None:
        slots = self.window // COMPRESSION
        if self.window % COMPRESSION or slots & (slots - 1) or slots < 1:
            raise ValueError(
                f"window must be {COMPRESSION} times a power of two, got {self.window}"
            )
        # Levels finer than a window leave at most three spans each, and one slot is incomplete:
        # whatever is merged then consists of complete windows.
        finer = sum(COMPRESSION**level < self.window for level in range(1, slots + 1))
        least = COMPRESSION + finer * (COMPRESSION - 1)
        if self.keyframes < 0:
            raise ValueError(f"keyframes must not be negative, got {self.keyframes}")
        if self.max_merged_spans < least:
            besides = f" besides {self.keyframes} keyframes" if self.keyframes else ""
            raise ValueError(
                f"windows of {self.window} need a budget of {least} or more{besides}, "
                f"got {self.max_merged_spans}"
            )
        if self.recent < 0:
            raise ValueError(f"recent must not be negative, got {self.recent}")


Merges = dict[Span, tuple[Span, ...]]
"""The parts of each span that was merged from unaligned ones."""


class Views(Protocol):
    """Knows which views the spans show."""

    def unique(self, spans: Sequence[Span]) -> Bool[np.ndarray, "n-3 4"]:
        """For every four neighbours, which of them show a view that no span outside of them shows
        at the same level or below; one entry for each place where four neighbours begin."""
        ...

    def merge(self, parent: Span, parts: Sequence[Span]) -> None:
        """Called whenever spans are merged."""
        ...


@dataclass(frozen=True)
class MergeSchedule:
    """The spans, oldest first, that cover the first `length` latents without gap or overlap.

    It depends on the length alone (and on the views, if it follows them), not on how many latents
    were appended at a time. There are at most `config.max_merged_spans` spans. As long as the
    base-4 digits of the number of slots sum to less than that (up to 49 148 latents for 20 spans,
    188 for 8), merging aligned groups is enough. Beyond, where there is none, the four oldest spans
    merge although they are of different lengths, and alignment counts from their end.
    """

    config: MergeConfig = field(default_factory=MergeConfig)
    length: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def settled(self) -> int:
        """How many latents lie in complete windows; the memory tokens of their spans are final."""
        return self.length - self.length % self.config.window

    @property
    def settled_spans(self) -> tuple[Span, ...]:
        """The spans whose memory tokens are final; the others lie in the incomplete window."""
        return tuple(span for span in self.spans if span.end <= self.settled)

    def extend(self, count: int, views: Views | None = None) -> tuple["MergeSchedule", Merges]:
        """The schedule `count` latents later, and the parts of each unaligned merge on the way.

        Raises ValueError unless views are given exactly if the configuration follows them.
        """
        if (views is None) != (self.config.merge_by == "age"):
            needed = "needs no views" if self.config.merge_by == "age" else "needs views"
            raise ValueError(f"a schedule that merges by {self.config.merge_by} {needed}")
        spans, merges = list(self.spans), Merges()
        end = self.length + count
        for start in range(self.length - self.length % COMPRESSION, end, COMPRESSION):
            if start < self.length:
                spans.pop()  # the incomplete slot
            elif len(spans) >= self.config.max_merged_spans:
                # One merge makes room for three. Every slot is complete here, so the merges do
                # not depend on how many latents were appended at a time.
                _merge_one(spans, self.config.recent, merges, views)
            spans.append(Span(1, start, min(start + COMPRESSION, end)))
        return MergeSchedule(self.config, end, tuple(spans)), merges


def _merge_one(spans: list[Span], recent: int, merges: Merges, views: Views | None) -> None:
    """Replace four neighbours by their parent, in place."""
    at = _next_group(spans, max(0, len(spans) - recent), views)
    if at is None:
        at = _next_group(spans, len(spans), views)
    first = at or 0
    parts = tuple(spans[first : first + COMPRESSION])
    parent = Span(1 + max(part.level for part in parts), parts[0].start, parts[-1].end)
    if at is None:
        merges[parent] = parts
    if views is not None:
        views.merge(parent, parts)
    spans[first : first + COMPRESSION] = [parent]


def _next_group(spans: list[Span], stop: int, views: Views | None) -> int | None:
    """Where the group to merge next begins, among the spans before index `stop`."""
    groups = _groups(spans[:stop])
    if not groups:
        return None
    if views is None:
        return min(groups, key=lambda at: (spans[at].level, at))
    unique = views.unique(spans)

    def loss(at: int) -> tuple[int, int, int]:
        lost = sum(unique[at])
        # Of views seen twice the newer are merged: generated frames are less reliable than what
        # they were generated from.
        return lost, spans[at].level, at if lost else -at

    return min(groups, key=loss)


def _groups(spans: list[Span]) -> list[int]:
    """Where aligned groups of four begin."""
    if not spans:
        return []
    origin = 0 if spans[0].complete else spans[0].end
    found = []
    for at in range(len(spans) - COMPRESSION + 1):
        first, group = spans[at], spans[at : at + COMPRESSION]
        aligned = (first.start - origin) % COMPRESSION ** (first.level + 1) == 0
        if aligned and all(span.complete and span.level == first.level for span in group):
            found.append(at)
    return found


def is_cover(spans: tuple[Span, ...], length: int) -> bool:
    """Whether the spans follow one another from 0 to `length`."""
    if not spans:
        return length == 0
    touching = all(a.end == b.start for a, b in pairwise(spans))
    return spans[0].start == 0 and spans[-1].end == length and touching
