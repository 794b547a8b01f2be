"""Which spans of the history a memory is made of, at any length: the plan, without tensors.

Latents arrive one by one. Every four make a slot, a code of level one; when there are more codes
than the budget allows, four neighbours become one code of the next level, as in a log-structured
tree. Groups are aligned to multiples of their own size, so a code is determined by its span and
not by the moment it was made, and a span that was once made is never divided again.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from loci.memory.compressor import RATE


class Span(NamedTuple):
    """A code's share of the history: latents `start` to `end` (exclusive), merged `level` times.

    A code of level l covers RATE ** l latents. Only two are shorter: the newest slot while it
    fills, and the deepest past once the budget has forced a fold.
    """

    level: int
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def complete(self) -> bool:
        return self.length == RATE**self.level

    @property
    def quarters(self) -> tuple["Span", ...]:
        """The four spans of the level below that an aligned span was merged from."""
        size = RATE ** (self.level - 1)
        starts = range(self.start, self.end, size)
        return tuple(Span(self.level - 1, start, start + size) for start in starts)


@dataclass(frozen=True)
class HierarchyConfig:
    """How a history is divided.

    `window` latents are encoded together into `window / 4` codes of level one (RATE times a power
    of two, so that no aligned span straddles a window). At most `budget` codes stand at any
    length. The `recent` newest codes are merged only when nothing else can be; each code kept so
    makes the past coarser, and without any 3 to 4 codes of level one stand at the end anyway.
    """

    window: int = 8
    budget: int = 20
    recent: int = 0

    def __post_init__(self) -> None:
        slots = self.window // RATE
        if self.window % RATE or slots & (slots - 1) or slots < 1:
            raise ValueError(f"window must be {RATE} times a power of two, got {self.window}")
        # Levels finer than a window leave at most three codes each, and one slot is filling: what
        # a fold may take then starts with four codes of whole windows.
        finer = sum(RATE**level < self.window for level in range(1, slots + 1))
        least = RATE + finer * (RATE - 1)
        if self.budget < least:
            raise ValueError(
                f"windows of {self.window} need a budget of {least} or more, got {self.budget}"
            )
        if self.recent < 0:
            raise ValueError(f"recent must not be negative, got {self.recent}")


Folds = dict[Span, tuple[Span, ...]]


@dataclass(frozen=True)
class Plan:
    """The spans, oldest first, that cover the first `length` latents without gap or overlap.

    A function of the length alone, however the latents were handed over. The budget holds at any
    length. While the base-4 digits of the number of slots sum to less than it (up to 49 148
    latents for a budget of 20), aligned groups are enough. Beyond, where none is left, the four
    oldest codes fold into one of unequal parts, and alignment counts from its end.
    """

    config: HierarchyConfig = field(default_factory=HierarchyConfig)
    length: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def settled(self) -> int:
        """How many latents lie in complete windows; the codes of their spans are final."""
        return self.length - self.length % self.config.window

    @property
    def settled_spans(self) -> tuple[Span, ...]:
        """The spans whose codes are final; the others lie in the window that is filling."""
        return tuple(span for span in self.spans if span.end <= self.settled)

    def extend(self, count: int) -> tuple["Plan", Folds]:
        """The plan `count` latents later, and the parts of each fold made on the way."""
        spans, folds = list(self.spans), Folds()
        end = self.length + count
        for start in range(self.length - self.length % RATE, end, RATE):
            if start < self.length:
                spans.pop()  # the slot that was filling
            elif len(spans) >= self.config.budget:
                # One merge makes room for three; every slot here is full, so when a merge
                # happens and what it takes do not depend on how many latents came at once.
                _merge_one(spans, self.config.recent, folds)
            spans.append(Span(1, start, min(start + RATE, end)))
        return Plan(self.config, end, tuple(spans)), folds


def _merge_one(spans: list[Span], recent: int, folds: Folds) -> None:
    """Replace four neighbours by their parent, in place."""
    at = _oldest_finest_group(spans[: max(0, len(spans) - recent)])
    if at is None:
        at = _oldest_finest_group(spans)
    first = at or 0
    parts = tuple(spans[first : first + RATE])
    parent = Span(1 + max(part.level for part in parts), parts[0].start, parts[-1].end)
    if at is None:
        folds[parent] = parts
    spans[first : first + RATE] = [parent]


def _oldest_finest_group(spans: list[Span]) -> int | None:
    """Where the oldest aligned group of the finest level that has one begins."""
    if not spans:
        return None
    origin = 0 if spans[0].complete else spans[0].end
    best: int | None = None
    for at in range(len(spans) - RATE + 1):
        first, group = spans[at], spans[at : at + RATE]
        aligned = (first.start - origin) % RATE ** (first.level + 1) == 0
        whole = all(span.complete and span.level == first.level for span in group)
        if aligned and whole and (best is None or first.level < spans[best].level):
            best = at
    return best


def is_cover(spans: tuple[Span, ...], length: int) -> bool:
    """Whether the spans follow one another from 0 to `length`."""
    if not spans:
        return length == 0
    touching = all(a.end == b.start for a, b in pairwise(spans))
    return spans[0].start == 0 and spans[-1].end == length and touching
