"""Fine codes kept as they are beside the cover: of all views seen, the few that differ most.

A merged code knows what was seen, but not sharply. What a walk may come back to is a view, and a
few dozen views are most of a place.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from loci.errors import LociError
from loci.memory.hpmc import RATE, WindowPlan
from loci.memory.poses import SeenViews
from loci.memory.schedule import HierarchyConfig, MergeSchedule, Span, is_cover
from loci.memory.token_cache import (
    Compressor,
    MemoryTokenCache,
    MemoryTokens,
    gather,
    mean_poses,
    slot_spans,
)

TURN = math.radians(40.0)
"""A turn that makes a view as different ..."""
PLACE = 2.0
"""... as being this far away, in cells."""


def kept(before: MemoryTokens | None, fresh: MemoryTokens, count: int) -> MemoryTokens:
    """At most `count` codes, oldest first: each fresh one comes in, and where there are too many,
    one of the two most alike goes.

    Of the two it is the one that is more like the others, and the newer one where that decides
    nothing: what a walk made itself is never truer than what it was made from. Codes come one
    after the other, so it does not matter how many come at once.

    Raises:
        ValueError: for codes without poses, which cannot be told apart.
    """
    if fresh.poses is None:
        raise ValueError("keepsakes are chosen by poses: every latent needs one")
    codes = fresh if before is None else gather([before, fresh])
    poses, rows = codes.poses, list(range(len(codes.spans) - len(fresh.spans)))
    assert poses is not None
    known = poses.cpu().double()
    for new in range(len(rows), len(codes.spans)):
        rows.append(new)
        if len(rows) > count:
            rows.pop(_least_missed(differences(known[:, rows])))
    chosen = torch.tensor(rows, device=codes.tokens.device, dtype=torch.long)
    return MemoryTokens(
        codes.tokens[:, :, chosen],
        poses[:, chosen.to(poses.device)],
        tuple(codes.spans[row] for row in rows),
    )


def beside(kept: MemoryTokens, cover: MemoryTokens) -> MemoryTokens:
    """Both, oldest first; what stands in the cover is there once."""
    extra = [row for row, span in enumerate(kept.spans) if span not in set(cover.spans)]
    poses = None if kept.poses is None else kept.poses[:, extra]
    spans = tuple(kept.spans[row] for row in extra)
    joined = gather([MemoryTokens(kept.tokens[:, :, extra], poses, spans), cover])
    order = sorted(range(len(joined.spans)), key=lambda row: (joined.spans[row].start, -row))
    return MemoryTokens(
        joined.tokens[:, :, order],
        None if joined.poses is None else joined.poses[:, order],
        tuple(joined.spans[row] for row in order),
    )


def differences(poses: Float[Tensor, "b n 4"]) -> Float[Tensor, "n n"]:
    """How different views are, the mean over a batch of walks: 1 for `TURN` or for `PLACE`."""
    turn = poses[:, :, None, 0] - poses[:, None, :, 0]
    turn = torch.atan2(turn.sin(), turn.cos()) / TURN
    place = (poses[:, :, None, 1:3] - poses[:, None, :, 1:3]) / PLACE
    return (turn.square() + place.square().sum(dim=-1)).sqrt().mean(dim=0)


def _least_missed(apart: Float[Tensor, "n n"]) -> int:
    apart = apart.clone().fill_diagonal_(math.inf)
    first, second = divmod(int(apart.argmin()), len(apart))
    others = apart[[first, second]]
    others[:, [first, second]] = math.inf
    nearest = others.amin(dim=1)
    return first if nearest[0] < nearest[1] else second


@dataclass(frozen=True)
class HierarchicalMemoryConfig:
    """`exact` asks for the published memory while its windows touch (323 latents as released).

    `batch` windows or groups at most go through the compressor in one call, which bounds the
    peak memory when a long history is appended at once.
    """

    hierarchy: HierarchyConfig = field(default_factory=HierarchyConfig)
    exact: WindowPlan | None = None
    batch: int = 16

    @property
    def exact_limit(self) -> int:
        return self.exact.contiguous_limit if self.exact else 0


@dataclass(frozen=True, eq=False)
class MemoryState:
    """All that is kept of a history of `length` latents: six tensors, none growing without end.

    `tokens` and `poses` belong to the settled spans of `plan`, those of complete windows; `tail`
    and `tail_poses` are the raw latents after them (the whole history while it is short enough
    for the published memory). Keepsakes, if the configuration asks for them, are the codes of
    `kept_spans`.
    """

    length: int
    plan: MergeSchedule
    tokens: Float[Tensor, "b d k h2 w2"] | None = None
    poses: Float[Tensor, "b k 4"] | None = None
    tail: Float[Tensor, "b c t h w"] | None = None
    tail_poses: Float[Tensor, "b t 3"] | None = None
    kept_tokens: Float[Tensor, "b d k h2 w2"] | None = None
    kept_poses: Float[Tensor, "b k 4"] | None = None
    kept_spans: tuple[Span, ...] = ()

    @property
    def keepsakes(self) -> MemoryTokens | None:
        """The codes that stay as they are."""
        if self.kept_tokens is None:
            return None
        return MemoryTokens(self.kept_tokens, self.kept_poses, self.kept_spans)

    @property
    def settled(self) -> MemoryTokens | None:
        """The codes that are final."""
        if self.tokens is None:
            return None
        return MemoryTokens(self.tokens, self.poses, self.plan.settled_spans)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors held, by name."""
        named = {name: getattr(self, name) for name in _TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


_TENSORS = ("tokens", "poses", "tail", "tail_poses", "kept_tokens", "kept_poses")


class HierarchicalMemory:
    """The unbounded memory around a compressor.

    `published` maps a raw history `[b, c, t, h, w]` to its memory `[b, d, k, h2, w2]`; it is
    needed exactly when `config.exact` is set. All latents of one walk share batch and sizes;
    poses (heading in radians, x, y) are given always or never, and are kept in float64 on the
    device they come on.
    """

    def __init__(
        self,
        config: HierarchicalMemoryConfig,
        compressor: Compressor,
        published: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if (config.exact is None) != (published is None):
            raise ValueError("config.exact and published go together, got only one of them")
        self.config = config
        self.compressor = compressor
        self.published = published

    def empty(self) -> MemoryState:
        """The state before anything was seen."""
        return MemoryState(0, MergeSchedule(self.config.hierarchy))

    def append(
        self,
        state: MemoryState,
        latents: Float[Tensor, "b c n h w"],
        poses: Float[Tensor, "b n 3"] | None = None,
    ) -> MemoryState:
        """The state n latents later; windows that became complete are compressed, once.

        Raises ValueError when the shapes do not continue the state, or when a hierarchy that
        follows views or has keepsakes is given no poses.
        """
        if poses is None and self.config.hierarchy.posed:
            raise ValueError("a memory that follows views or has keepsakes needs all poses")
        tail, tail_poses = continued(state.tail, state.tail_poses, latents, poses)
        length = state.length + latents.shape[2]
        if length <= self.config.exact_limit:
            return MemoryState(length, state.plan, tail=tail, tail_poses=tail_poses)
        views = _views(state, tail_poses) if self.config.hierarchy.follow == "views" else None
        plan, folds = state.plan.extend(length - state.plan.length, views)
        first, fresh = state.plan.settled, plan.settled - state.plan.settled
        book = MemoryTokenCache(self.compressor, self.config.batch, state.settled)
        done_poses = None if tail_poses is None else tail_poses[:, :fresh]
        book.encode(first, tail[:, :, :fresh], done_poses, self.config.hierarchy.window)
        keepsakes, places = state.keepsakes, self.config.hierarchy.keepsakes
        if places and fresh:
            keepsakes = kept(keepsakes, book.read(slot_spans(first, first + fresh)), places)
        book.merge(plan.settled_spans, folds)
        settled = book.read(plan.settled_spans) if plan.settled_spans else None
        return MemoryState(
            length,
            plan,
            tokens=settled.tokens if settled else None,
            poses=settled.poses if settled else None,
            # Copies, not views: a view would keep all that was appended alive.
            tail=tail[:, :, fresh:].clone(),
            tail_poses=None if tail_poses is None else tail_poses[:, fresh:].clone(),
            kept_tokens=keepsakes.tokens if keepsakes else None,
            kept_poses=keepsakes.poses if keepsakes else None,
            kept_spans=keepsakes.spans if keepsakes else (),
        )

    def codes(self, state: MemoryState) -> MemoryTokens:
        """The memory of everything appended, at most `budget` codes, oldest first.

        The latents after the last complete window are encoded as a partial window, anew at each
        call. Raises ValueError for an empty state.
        """
        if state.tail is None:
            raise ValueError("an empty memory has no codes: append at least one latent")
        if self.config.exact and self.published and state.length <= self.config.exact_limit:
            spans = published_spans(self.config.exact, state.length)
            poses = None if state.tail_poses is None else mean_poses(state.tail_poses, spans)
            return MemoryTokens(self.published(state.tail), poses, spans)
        book = MemoryTokenCache(self.compressor, self.config.batch, state.settled)
        window = self.config.hierarchy.window
        book.encode(state.plan.settled, state.tail, state.tail_poses, window)
        book.merge(state.plan.spans, {})
        cover = book.read(state.plan.spans)
        return cover if state.keepsakes is None else beside(state.keepsakes, cover)

    def state_dict(self, state: MemoryState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A state as named tensors, and the rest as metadata that JSON can hold."""
        metadata = {
            "config": asdict(self.config),
            "length": state.length,
            "planned": state.plan.length,
            "spans": [list(span) for span in state.plan.spans],
            "kept": [list(span) for span in state.kept_spans],
        }
        return {name: tensor.contiguous() for name, tensor in state.tensors.items()}, metadata

    def from_state_dict(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> MemoryState:
        """The state that `state_dict` described.

        Raises LociError when it is damaged, or was saved by a memory of another configuration.
        """
        expected, found = asdict(self.config), metadata.get("config")
        if found != expected:
            raise LociError(f"memory state: expected the configuration {expected}, found {found}")
        try:
            spans = tuple(Span(*map(int, span)) for span in metadata["spans"])
            kept_spans = tuple(Span(*map(int, span)) for span in metadata["kept"])
            plan = MergeSchedule(self.config.hierarchy, int(metadata["planned"]), spans)
            length = int(metadata["length"])
            state = MemoryState(length, plan, **tensors, kept_spans=kept_spans)
        except (KeyError, TypeError, ValueError) as error:
            raise LociError(f"memory state: damaged, cannot be read ({error!r})") from error
        self._check(state)
        return state

    def _check(self, state: MemoryState) -> None:
        """Raise LociError unless the parts of a restored state fit together."""
        plan, held = state.plan, state.tensors
        expected = 0 if state.length <= self.config.exact_limit else state.length
        if plan.length != expected or not is_cover(plan.spans, plan.length):
            raise LociError(f"memory state: spans do not cover {state.length} latents")
        some, rest = len(plan.settled_spans), state.length - plan.settled
        keepsakes = len(state.kept_spans)
        if keepsakes != min(plan.config.keepsakes, plan.settled // RATE):
            raise LociError(f"memory state: {keepsakes} keepsakes of {state.length} latents")
        posed = "poses" in held or "tail_poses" in held
        wanted = {
            "tail": state.length > 0,
            "tokens": some > 0,
            "tail_poses": posed,
            "poses": posed and some > 0,
            "kept_tokens": keepsakes > 0,
            "kept_poses": keepsakes > 0,
        }
        sizes = {"tail": rest, "kept": keepsakes}
        for name, needed in wanted.items():
            if needed and name not in held:
                raise LociError(f"memory state: lacks {name}")
        batch = held["tail"].shape[:1] if "tail" in held else ()
        for name, tensor in held.items():
            size = sizes.get(name.split("_")[0], some)
            if name.endswith("poses"):
                width = 3 if name.startswith("tail") else 4
                fits = tensor.ndim == 3 and tensor.shape[1:] == (size, width)
            else:
                fits = tensor.ndim == 5 and tensor.shape[2] == size
            if not fits or tensor.shape[:1] != batch:
                found = list(tensor.shape)
                raise LociError(f"memory state: {name} must have {size} entries, found {found}")


def _views(state: MemoryState, tail_poses: Tensor | None) -> SeenViews:
    """Where everything looks that stands or is to come; `tail_poses` begin at the tail."""
    assert tail_poses is not None
    known = {}
    if state.settled is not None and state.settled.poses is not None:
        rows = state.settled.poses.cpu().unbind(1)
        known = dict(zip(state.settled.spans, rows, strict=True))
    return SeenViews(known, tail_poses.cpu(), state.plan.settled)


def published_spans(plan: WindowPlan, length: int) -> tuple[Span, ...]:
    """What each latent of the published memory was compressed from; windows may overlap."""
    if length <= plan.direct_limit:
        return slot_spans(0, length)
    size = RATE * RATE
    return tuple(
        Span(2, start + part, start + part + size)
        for start in plan.starts(length)
        for part in range(0, plan.window, size)
    )


def continued(
    before: Tensor | None, poses_before: Tensor | None, latents: Tensor, poses: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A copy of what came before with what comes now, in float64 for the poses.

    Raises ValueError unless latents are `[b, c, n, h, w]`, poses `[b, n, 3]` or None, and both
    continue what came before.
    """
    if latents.ndim != 5 or latents.shape[2] < 1:
        raise ValueError(f"latents must be [b, c, n, h, w] with n > 0, got {list(latents.shape)}")
    expected = (latents.shape[0], latents.shape[2], 3)
    if poses is not None and poses.shape != expected:
        raise ValueError(f"poses must be {list(expected)}, got {list(poses.shape)}")
    if before is None:
        return latents.clone(), None if poses is None else poses.to(torch.float64, copy=True)
    if before.shape[:2] + before.shape[3:] != latents.shape[:2] + latents.shape[3:]:
        raise ValueError(
            f"latents must continue {list(before.shape)} in time, got {list(latents.shape)}"
        )
    if (poses is None) != (poses_before is None):
        raise ValueError("poses must come with every append of a walk or with none")
    joined = torch.cat([before, latents], dim=2)
    if poses is None or poses_before is None:
        return joined, None
    return joined, torch.cat([poses_before, poses.to(torch.float64)], dim=1)
