"""What the horizon is measured against: nothing, the recent past, samples, all of it, another's.

Each has the methods of `HierarchicalMemory` that a walk needs: empty, append and codes.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Generic, Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

from loci.memory.hierarchical import continued
from loci.memory.hpmc import RATE
from loci.memory.schedule import HierarchyConfig, Span
from loci.memory.token_cache import Compressor, MemoryTokenCache, MemoryTokens

S = TypeVar("S")


class Memory(Protocol[S]):
    """What a walk asks of a memory. States are immutable; `codes` needs at least one latent."""

    def empty(self) -> S: ...

    def append(
        self,
        state: S,
        latents: Float[Tensor, "b c n h w"],
        poses: Float[Tensor, "b n 3"] | None = None,
    ) -> S: ...

    def codes(self, state: S) -> MemoryTokens: ...


@dataclass(frozen=True, eq=False)
class RawState:
    """The newest raw latents, with their poses, of a history of `length`."""

    length: int = 0
    latents: Float[Tensor, "b c t h w"] | None = None
    poses: Float[Tensor, "b t 3"] | None = None


@dataclass(frozen=True)
class RawMemory:
    """`raw`: the newest `keep` latents uncompressed, or all of them (None) for as long as they fit.

    Codes are the latents themselves, with spans of level 0.
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
        kept, kept_poses = continued(state.latents, state.poses, latents, poses)
        drop = 0 if self.keep is None else max(0, kept.shape[2] - self.keep)
        if kept_poses is not None:
            kept_poses = kept_poses[:, drop:].clone()
        length = state.length + latents.shape[2]
        return RawState(length, kept[:, :, drop:].clone(), kept_poses)

    def codes(self, state: RawState) -> MemoryTokens:
        latents = _begun(state)
        first = state.length - latents.shape[2]
        spans = tuple(Span(0, t, t + 1) for t in range(first, state.length))
        return MemoryTokens(latents, state.poses, spans)


@dataclass(frozen=True)
class NoMemory(RawMemory):
    """`none`: no codes at all, of the shapes that `compressor` would give."""

    compressor: Compressor = field(kw_only=True)
    keep: int | None = 1

    def codes(self, state: RawState) -> MemoryTokens:
        latents, poses = _begun(state), state.poses
        tokens = self.compressor.encode(latents, poses)[:, :, :0]
        return MemoryTokens(tokens, None if poses is None else poses[:, :0], ())


@dataclass(frozen=True)
class SampledMemory(RawMemory):
    """`window` and `stride`: as many aligned windows as the budget holds, in codes of level one.

    The newest window, which may be partial, is always among them; the others are the ones before
    it, or, `strided`, spread evenly over the whole history. Keeps the raw history, so it grows.
    """

    compressor: Compressor = field(kw_only=True)
    config: HierarchyConfig = field(default_factory=HierarchyConfig)
    strided: bool = False

    def codes(self, state: RawState) -> MemoryTokens:
        latents, poses, window = _begun(state), state.poses, self.config.window
        book = MemoryTokenCache(self.compressor, batch=1)
        for index in self._chosen(state.length):
            at = slice(index * window, (index + 1) * window)
            within = None if poses is None else poses[:, at]
            book.encode(at.start, latents[:, :, at], within, window)
        return book.read(list(book.codes))

    def _chosen(self, length: int) -> list[int]:
        """Indices of the chosen windows, oldest first."""
        window = self.config.window
        newest = (length - 1) // window
        left = self.config.budget - ceil((length - newest * window) / RATE)
        room = min(newest, left * RATE // window)
        if not self.strided:
            return list(range(newest - room, newest + 1))
        return [newest * k // room for k in range(room)] + [newest]


@dataclass(frozen=True)
class WrongMemory(Generic[S]):
    """`wrong`: remembers like `inner`, but answers with the codes of another scene."""

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

    def codes(self, state: S) -> MemoryTokens:
        return self.other


def _begun(state: RawState) -> Tensor:
    if state.latents is None:
        raise ValueError("an empty memory has no codes: append at least one latent")
    return state.latents
