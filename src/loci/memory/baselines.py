"""Memories to compare the hierarchical one with: none, raw latents, sampled windows, wrong."""

from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeVar

from jaxtyping import Float
from torch import Tensor

from loci.memory.base import Memory
from loci.memory.hierarchical import extend_history
from loci.memory.hpmc import COMPRESSION
from loci.memory.memory_tokens import Compressor, MemoryTokenBuilder, MemoryTokens
from loci.memory.schedule import MergeConfig, Span

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class RawState:
    """The newest raw latents of a history of `length`, with their poses."""

    length: int = 0
    latents: Float[Tensor, "b c t h w"] | None = None
    poses: Float[Tensor, "b t 3"] | None = None


@dataclass(frozen=True)
class RawMemory:
    """Baseline `raw`: the newest `keep` latents uncompressed, or all of them if None.

    The memory tokens are the latents themselves, with spans of level 0.
    """

    keep: int | None = None

    def empty(self) -> RawState:
        return RawState()

    def append(
        self,
        state: RawState,
        latents: Float[Tensor, "b c n h w"],
        poses: Float[Tensor, "b n 3"] | None = None,
    ) -> RawState:
        history, all_poses = extend_history(state.latents, state.poses, latents, poses)
        drop = 0 if self.keep is None else max(0, history.shape[2] - self.keep)
        if all_poses is not None:
            all_poses = all_poses[:, drop:].clone()
        length = state.length + latents.shape[2]
        return RawState(length, history[:, :, drop:].clone(), all_poses)

    def tokens(self, state: RawState, poses: Float[Tensor, "b n 3"] | None = None) -> MemoryTokens:
        latents = _latents(state)
        first = state.length - latents.shape[2]
        spans = tuple(Span(0, t, t + 1) for t in range(first, state.length))
        return MemoryTokens(latents, state.poses, spans)


@dataclass(frozen=True)
class NoMemory(RawMemory):
    """Baseline `none`: no memory tokens, in the shapes that `compressor` would give."""

    compressor: Compressor = field(kw_only=True)
    keep: int | None = 1

    def tokens(self, state: RawState, poses: Float[Tensor, "b n 3"] | None = None) -> MemoryTokens:
        latents, poses = _latents(state), state.poses
        tokens = self.compressor.encode(latents, poses)[:, :, :0]
        return MemoryTokens(tokens, None if poses is None else poses[:, :0], ())


@dataclass(frozen=True)
class SampledMemory(RawMemory):
    """Baselines `window` and `stride`: as many aligned windows as the budget holds, not merged.

    The newest window, which may be partial, is always among them; the others are those before it
    or, if `strided`, spread evenly over the whole history. Keeps all raw latents, so it grows.
    """

    compressor: Compressor = field(kw_only=True)
    config: MergeConfig = field(default_factory=MergeConfig)
    strided: bool = False

    def tokens(self, state: RawState, poses: Float[Tensor, "b n 3"] | None = None) -> MemoryTokens:
        latents, poses, window = _latents(state), state.poses, self.config.window
        builder = MemoryTokenBuilder(self.compressor, batch=1)
        for index in self._chosen(state.length):
            at = slice(index * window, (index + 1) * window)
            window_poses = None if poses is None else poses[:, at]
            builder.encode(at.start, latents[:, :, at], window_poses, window)
        return builder.read(list(builder.entries))

    def _chosen(self, length: int) -> list[int]:
        """Indices of the chosen windows, oldest first."""
        window = self.config.window
        newest = (length - 1) // window
        left = self.config.budget - ceil((length - newest * window) / COMPRESSION)
        room = min(newest, left * COMPRESSION // window)
        if not self.strided:
            return list(range(newest - room, newest + 1))
        return [newest * k // room for k in range(room)] + [newest]


@dataclass(frozen=True)
class WrongMemory(Generic[S]):
    """Baseline `wrong`: appends like `inner`, but always gives another scene's tokens."""

    inner: Memory[S]
    other: MemoryTokens

    def empty(self) -> S:
        return self.inner.empty()

    def append(
        self,
        state: S,
        latents: Float[Tensor, "b c n h w"],
        poses: Float[Tensor, "b n 3"] | None = None,
    ) -> S:
        return self.inner.append(state, latents, poses)

    def tokens(self, state: S, poses: Float[Tensor, "b n 3"] | None = None) -> MemoryTokens:
        return self.other


def _latents(state: RawState) -> Tensor:
    if state.latents is None:
        raise ValueError("an empty memory has no tokens: append at least one latent")
    return state.latents
