"""A memory of bounded size for a history of any length, around a compressor of windows.

Complete windows are compressed once; when there are more spans than the budget, neighbours merge
(`memory/schedule.py`). A short history can have the memory of the published model instead.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from loci.errors import LociError
from loci.io.config_files import config_from_dict
from loci.memory.hpmc import COMPRESSION, WindowPlan
from loci.memory.keyframes import add_keyframes, nearest_keyframes, select_keyframes
from loci.memory.memory_tokens import (
    Compressor,
    MemoryTokenBuilder,
    MemoryTokens,
    mean_poses,
    slot_spans,
)
from loci.memory.poses import ViewIndex
from loci.memory.schedule import MergeConfig, MergeSchedule, Span, is_cover


@dataclass(frozen=True)
class MemoryConfig:
    """How the memory is organised.

    Args:
        merging: how the history is divided into spans, and which of them merge.
        published_windows: those of the published model, whose memory is used while they cover
            the history without gaps (323 latents with the published constants).
        batch: the most windows or groups in one call of the compressor, which bounds the peak
            memory when a long history is appended at once.
        attended_keyframes: the most keyframes that a chunk attends to, those with the views nearest
            to its own; 0 for all. So many can be kept at the cost of few.
    """

    FORMER_FIELDS: ClassVar[dict[str, str]] = {
        "hierarchy": "merging",
        "exact": "published_windows",
        "released_windows": "published_windows",
    }

    merging: MergeConfig = field(default_factory=MergeConfig)
    published_windows: WindowPlan | None = None
    batch: int = 16
    attended_keyframes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.attended_keyframes <= self.merging.keyframes:
            raise ValueError(
                f"attended_keyframes must be 0 to {self.merging.keyframes}, the keyframes there "
                f"are, got {self.attended_keyframes}"
            )

    @property
    def attended(self) -> int:
        """The most memory tokens' spans that a chunk attends to."""
        kept = self.attended_keyframes or self.merging.keyframes
        return self.merging.max_merged_spans + kept

    @property
    def published_limit(self) -> int:
        """The longest history that has the memory of the published model."""
        return self.published_windows.contiguous_limit if self.published_windows else 0


@dataclass(frozen=True, eq=False)
class MemoryState:
    """All that is kept of a history of `length` latents: six tensors of bounded size.

    `tokens` and `poses` are those of `schedule.settled_spans`, the spans of complete windows;
    `tail` and `tail_poses` are the raw latents after them (the whole history while it is short
    enough for the memory of the published model). Keyframes are optional.
    """

    length: int
    schedule: MergeSchedule
    tokens: Float[Tensor, "b d k h2 w2"] | None = None
    poses: Float[Tensor, "b k 4"] | None = None
    tail: Float[Tensor, "b c t h w"] | None = None
    tail_poses: Float[Tensor, "b t 3"] | None = None
    keyframe_tokens: Float[Tensor, "b d k h2 w2"] | None = None
    keyframe_poses: Float[Tensor, "b k 4"] | None = None
    keyframe_spans: tuple[Span, ...] = ()

    @property
    def keyframes(self) -> MemoryTokens | None:
        """The memory tokens of spans that are never merged."""
        if self.keyframe_tokens is None:
            return None
        return MemoryTokens(self.keyframe_tokens, self.keyframe_poses, self.keyframe_spans)

    @property
    def settled(self) -> MemoryTokens | None:
        """The memory tokens of complete windows."""
        if self.tokens is None:
            return None
        return MemoryTokens(self.tokens, self.poses, self.schedule.settled_spans)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors held, by name."""
        named = {name: getattr(self, name) for name in _TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


_TENSORS = ("tokens", "poses", "tail", "tail_poses", "keyframe_tokens", "keyframe_poses")
_FORMER_TENSORS = {"kept_tokens": "keyframe_tokens", "kept_poses": "keyframe_poses"}


class HierarchicalMemory:
    """Appends latents to immutable states, and computes their memory tokens.

    All latents of one walk share batch and sizes. Poses (heading in radians, x, y in cells) are
    given always or never; they are kept in float64 on their device.

    Args:
        config: how the memory is organised.
        compressor: compresses windows and merges spans.
        encode_history: the memory tokens `[b, d, k, h2, w2]` of a raw history `[b, c, t, h, w]` in
            one go, as in the published model; needed exactly if `config.published_windows` is set.
    """

    def __init__(
        self,
        config: MemoryConfig,
        compressor: Compressor,
        encode_history: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if (config.published_windows is None) != (encode_history is None):
            raise ValueError("published_windows and encode_history: expected both or neither")
        self.config = config
        self.compressor = compressor
        self.encode_history = encode_history

    def empty(self) -> MemoryState:
        """The state of an empty history."""
        return MemoryState(0, MergeSchedule(self.config.merging))

    def append(
        self,
        state: MemoryState,
        latents: Float[Tensor, "b c n h w"],
        poses: Float[Tensor, "b n 3"] | None = None,
    ) -> MemoryState:
        """The state n latents later. Windows that became complete are compressed.

        Raises:
            ValueError: when shapes do not continue those of the state, or poses are missing where
                the memory merges by views or has keyframes.
        """
        if poses is None and self.config.merging.posed:
            raise ValueError("a memory that merges by views or has keyframes needs all poses")
        tail, tail_poses = extend_history(state.tail, state.tail_poses, latents, poses)
        length = state.length + latents.shape[2]
        if length <= self.config.published_limit:
            return MemoryState(length, state.schedule, tail=tail, tail_poses=tail_poses)
        views = _views(state, tail_poses) if self.config.merging.merge_by == "views" else None
        schedule, merges = state.schedule.extend(length - state.schedule.length, views)
        first, fresh = state.schedule.settled, schedule.settled - state.schedule.settled
        builder = MemoryTokenBuilder(self.compressor, self.config.batch, state.settled)
        fresh_poses = None if tail_poses is None else tail_poses[:, :fresh]
        builder.encode(first, tail[:, :, :fresh], fresh_poses, self.config.merging.window)
        keyframes, count = state.keyframes, self.config.merging.keyframes
        if count and fresh:
            candidates = builder.read(slot_spans(first, first + fresh))
            keyframes = select_keyframes(keyframes, candidates, count)
        builder.merge(schedule.settled_spans, merges)
        settled = builder.read(schedule.settled_spans) if schedule.settled_spans else None
        return MemoryState(
            length,
            schedule,
            tokens=settled.tokens if settled else None,
            poses=settled.poses if settled else None,
            # Copies: views would keep all latents ever appended alive.
            tail=tail[:, :, fresh:].clone(),
            tail_poses=None if tail_poses is None else tail_poses[:, fresh:].clone(),
            keyframe_tokens=keyframes.tokens if keyframes else None,
            keyframe_poses=keyframes.poses if keyframes else None,
            keyframe_spans=keyframes.spans if keyframes else (),
        )

    def tokens(
        self, state: MemoryState, poses: Float[Tensor, "b n 3"] | None = None
    ) -> MemoryTokens:
        """The memory tokens of the whole history, oldest first: of at most `budget` spans, or of
        the merged ones and `attended_keyframes`.

        The latents after the last complete window are encoded as a partial window at each call.

        Args:
            state: the state after at least one latent.
            poses: poses of the frames ahead, to choose `attended_keyframes`; without them, all
                keyframes are given.

        Raises:
            ValueError: for an empty state.
        """
        if state.tail is None:
            raise ValueError("an empty memory has no tokens: append at least one latent")
        if (
            self.config.published_windows
            and self.encode_history
            and state.length <= self.config.published_limit
        ):
            spans = published_spans(self.config.published_windows, state.length)
            poses = None if state.tail_poses is None else mean_poses(state.tail_poses, spans)
            return MemoryTokens(self.encode_history(state.tail), poses, spans)
        builder = MemoryTokenBuilder(self.compressor, self.config.batch, state.settled)
        window = self.config.merging.window
        builder.encode(state.schedule.settled, state.tail, state.tail_poses, window)
        builder.merge(state.schedule.spans, {})
        cover = builder.read(state.schedule.spans)
        keyframes, count = state.keyframes, self.config.attended_keyframes
        if keyframes is None:
            return cover
        if count and poses is not None:
            covered = set(cover.spans)
            others = [k for k, span in enumerate(keyframes.spans) if span not in covered]
            keyframes = nearest_keyframes(keyframes.select(others), poses, count)
        return add_keyframes(keyframes, cover)

    def state_dict(self, state: MemoryState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A state as named tensors, and the rest as metadata for JSON."""
        metadata = {
            "config": asdict(self.config),
            "length": state.length,
            "planned": state.schedule.length,
            "spans": [list(span) for span in state.schedule.spans],
            "keyframes": [list(span) for span in state.keyframe_spans],
        }
        return {name: tensor.contiguous() for name, tensor in state.tensors.items()}, metadata

    def from_state_dict(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> MemoryState:
        """The state that `state_dict` described.

        Raises:
            LociError: when it is damaged, or was saved by a memory of another configuration.
        """
        try:
            found = config_from_dict(MemoryConfig, metadata["config"])
        except (KeyError, TypeError, ValueError, LociError) as error:
            raise LociError(f"memory state: its configuration is damaged ({error})") from error
        if found != self.config:
            raise LociError(
                f"memory state: saved with another memory ({found}) than this model's "
                f"({self.config}): go on with the model it was saved with"
            )
        tensors = {_FORMER_TENSORS.get(name, name): tensor for name, tensor in tensors.items()}
        try:
            spans = tuple(Span(*map(int, span)) for span in metadata["spans"])
            listed = metadata["kept" if "kept" in metadata else "keyframes"]
            keyframes = tuple(Span(*map(int, span)) for span in listed)
            schedule = MergeSchedule(self.config.merging, int(metadata["planned"]), spans)
            length = int(metadata["length"])
            state = MemoryState(length, schedule, **tensors, keyframe_spans=keyframes)
        except (KeyError, TypeError, ValueError) as error:
            raise LociError(f"memory state: damaged, cannot be read ({error!r})") from error
        self._check(state)
        return state

    def _check(self, state: MemoryState) -> None:
        """Raise LociError unless the parts of a restored state fit together."""
        schedule, tensors = state.schedule, state.tensors
        expected = 0 if state.length <= self.config.published_limit else state.length
        if schedule.length != expected or not is_cover(schedule.spans, schedule.length):
            raise LociError(f"memory state: spans do not cover {state.length} latents")
        settled, rest = len(schedule.settled_spans), state.length - schedule.settled
        keyframes = len(state.keyframe_spans)
        if keyframes != min(schedule.config.keyframes, schedule.settled // COMPRESSION):
            raise LociError(f"memory state: {keyframes} keyframes of {state.length} latents")
        posed = "poses" in tensors or "tail_poses" in tensors
        needed = {
            "tail": state.length > 0,
            "tokens": settled > 0,
            "tail_poses": posed,
            "poses": posed and settled > 0,
            "keyframe_tokens": keyframes > 0,
            "keyframe_poses": keyframes > 0,
        }
        sizes = {"tail": rest, "keyframe": keyframes}
        for name, is_needed in needed.items():
            if is_needed and name not in tensors:
                raise LociError(f"memory state: lacks {name}")
        batch = tensors["tail"].shape[:1] if "tail" in tensors else ()
        for name, tensor in tensors.items():
            size = sizes.get(name.split("_")[0], settled)
            if name.endswith("poses"):
                width = 3 if name.startswith("tail") else 4
                fits = tensor.ndim == 3 and tensor.shape[1:] == (size, width)
            else:
                fits = tensor.ndim == 5 and tensor.shape[2] == size
            if not fits or tensor.shape[:1] != batch:
                found = list(tensor.shape)
                raise LociError(f"memory state: {name} must have {size} entries, found {found}")


def _views(state: MemoryState, tail_poses: Tensor | None) -> ViewIndex:
    """The views of the settled spans, and of the tail at `tail_poses`."""
    assert tail_poses is not None
    settled_poses = {}
    if state.settled is not None and state.settled.poses is not None:
        poses = state.settled.poses.cpu().unbind(1)
        settled_poses = dict(zip(state.settled.spans, poses, strict=True))
    return ViewIndex(settled_poses, tail_poses.cpu(), state.schedule.settled)


def published_spans(plan: WindowPlan, length: int) -> tuple[Span, ...]:
    """The span of each latent of the published model's memory; windows may overlap."""
    if length <= plan.direct_limit:
        return slot_spans(0, length)
    size = COMPRESSION * COMPRESSION
    return tuple(
        Span(2, start + part, start + part + size)
        for start in plan.starts(length)
        for part in range(0, plan.window, size)
    )


def extend_history(
    before: Tensor | None, poses_before: Tensor | None, latents: Tensor, poses: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """New latents and poses appended to those of before, copied; poses in float64.

    Raises ValueError unless latents are `[b, c, n, h, w]`, poses `[b, n, 3]` or None, and both
    continue those of before.
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
