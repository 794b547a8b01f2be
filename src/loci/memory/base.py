"""The memory protocol: what a walk needs of a memory.

`HierarchicalMemory` is the one that worlds have; `baselines.py` has those it is compared with.
"""

from typing import Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

from loci.memory.memory_tokens import MemoryTokens

S = TypeVar("S")


class Memory(Protocol[S]):
    """What a walk needs of a memory. Its states, of type S, are immutable."""

    def empty(self) -> S:
        """The state before the first latent."""
        ...

    def append(
        self,
        state: S,
        latents: Float[Tensor, "b c n h w"],
        poses: Float[Tensor, "b n 3"] | None = None,
    ) -> S:
        """The state after n more latents, with their dead-reckoned poses if the model uses them."""
        ...

    def tokens(self, state: S, poses: Float[Tensor, "b n 3"] | None = None) -> MemoryTokens:
        """What the next chunk attends to; it may depend on the poses of the frames to be generated.

        Raises:
            ValueError: before the first latent.
        """
        ...
