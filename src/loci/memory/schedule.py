"""Which spans of the history a memory is made of, at any length: the plan, without tensors.

Latents arrive one by one. Every four make a slot, a code of level one; when there are more codes
than the budget allows, four neighbours become one code of the next level, as in a log-structured
tree. Groups are aligned to multiples of their own size, so a code is determined by its span and
not by the moment it was made, and a span that was once made is never divided again.

Which group goes first is a matter of age, or of what was seen: views that stand elsewhere as
finely lose nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool

from loci.memory.hpmc import RATE


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
    `follow` says what is merged first: of the finest groups the oldest ("age"), or the group with
    the fewest views that nothing else shows as finely ("views"; needs poses). `keepsakes` places of
    the budget are for codes of level one that stay as they are beside the cover
    (`memory/keepsakes.py`; they need poses).
    """

    window: int = 8
    budget: int = 20
    recent: int = 0
    follow: Literal["age", "views"] = "age"
    keepsakes: int = 0

    @property
    def cover(self) -> int:
        """The most codes that the history is divided into."""
        return self.budget - self.keepsakes

    @property
    def posed(self) -> bool:
        """Whether every latent needs a pose."""
        return self.follow == "views" or self.keepsakes > 0

    def __post_init__(self) -> None:
        slots = self.window // RATE
        if self.window % RATE or slots & (slots - 1) or slots < 1:
            raise ValueError(f"window must be {RATE} times a power of two, got {self.window}")
        # Levels finer than a window leave at most three codes each, and one slot is filling: what
        # a fold may take then starts with four codes of whole windows.
        finer = sum(RATE**level < self.window for level in range(1, slots + 1))
        least = RATE + finer * (RATE - 1)
        if self.keepsakes < 0:
            raise ValueError(f"keepsakes must not be negative, got {self.keepsakes}")
        if self.cover < least:
            beside = f" beside {self.keepsakes} keepsakes" if self.keepsakes else ""
            raise ValueError(
                f"windows of {self.window} need a budget of {least} or more{beside}, "
                f"got {self.cover}"
            )
        if self.recent < 0:
            raise ValueError(f"recent must not be negative, got {self.recent}")


Folds = dict[Span, tuple[Span, ...]]


class Views(Protocol):
    """Knows where spans look; told of every merge."""

    def unique(self, spans: Sequence[Span]) -> Bool[np.ndarray, "n-3 4"]:
        """For every four neighbours, which of them show what no span outside of them shows as
        finely: one row for each place where four neighbours begin."""
        ...

    def merge(self, parent: Span, parts: Sequence[Span]) -> None: ...


@dataclass(frozen=True)
class MergeSchedule:
    """The spans, oldest first, that cover the first `length` latents without gap or overlap.

    A function of the length alone (and of the views, where it follows them), however the latents
    were handed over. There are at most `config.cover` at any length. While the base-4 digits of the
    number of slots sum to less than it (up to 49 148 latents for a cover of 20, 188 for one of 8),
    aligned groups are enough. Beyond, where none is left, the four oldest codes fold into one of
    unequal parts, and alignment counts from its end.
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

    def extend(self, count: int, views: Views | None = None) -> tuple["MergeSchedule", Folds]:
        """The plan `count` latents later, and the parts of each fold made on the way.

        Raises ValueError unless views are given exactly where the configuration follows them.
        """
        if (views is None) != (self.config.follow == "age"):
            raise ValueError(f"a plan that follows {self.config.follow}: views do not go with it")
        spans, folds = list(self.spans), Folds()
        end = self.length + count
        for start in range(self.length - self.length % RATE, end, RATE):
            if start < self.length:
                spans.pop()  # the slot that was filling
            elif len(spans) >= self.config.cover:
                # One merge makes room for three; every slot here is full, so when a merge
                # happens and what it takes do not depend on how many latents came at once.
                _merge_one(spans, self.config.recent, folds, views)
            spans.append(Span(1, start, min(start + RATE, end)))
        return MergeSchedule(self.config, end, tuple(spans)), folds


def _merge_one(spans: list[Span], recent: int, folds: Folds, views: Views | None) -> None:
    """Replace four neighbours by their parent, in place."""
    at = _first_to_go(spans, max(0, len(spans) - recent), views)
    if at is None:
        at = _first_to_go(spans, len(spans), views)
    first = at or 0
    parts = tuple(spans[first : first + RATE])
    parent = Span(1 + max(part.level for part in parts), parts[0].start, parts[-1].end)
    if at is None:
        folds[parent] = parts
    if views is not None:
        views.merge(parent, parts)
    spans[first : first + RATE] = [parent]


def _first_to_go(spans: list[Span], stop: int, views: Views | None) -> int | None:
    """Where the group begins that is to be merged first, among the spans before index `stop`."""
    groups = _groups(spans[:stop])
    if not groups:
        return None
    if views is None:
        return min(groups, key=lambda at: (spans[at].level, at))
    unique = views.unique(spans)

    def loss(at: int) -> tuple[int, int, int]:
        lost = sum(unique[at])
        # Of views seen twice the older are kept: what a walk made itself is never truer than
        # what it was made from.
        return lost, spans[at].level, at if lost else -at

    return min(groups, key=loss)


def _groups(spans: list[Span]) -> list[int]:
    """Where aligned groups of four begin."""
    if not spans:
        return []
    origin = 0 if spans[0].complete else spans[0].end
    found = []
    for at in range(len(spans) - RATE + 1):
        first, group = spans[at], spans[at : at + RATE]
        aligned = (first.start - origin) % RATE ** (first.level + 1) == 0
        if aligned and all(span.complete and span.level == first.level for span in group):
            found.append(at)
    return found


def is_cover(spans: tuple[Span, ...], length: int) -> bool:
    """Whether the spans follow one another from 0 to `length`."""
    if not spans:
        return length == 0
    touching = all(a.end == b.start for a, b in pairwise(spans))
    return spans[0].start == 0 and spans[-1].end == length and touching
