"""What a chunk is conditioned on, computed once and reused at every sampling step."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from loci.layers.attention import KeysValues
from loci.layers.rotary import Rotation


class Prompt(NamedTuple):
    """Text states `[b, length, width]` and their mask `[b, length]` (1 = a real token)."""

    states: Tensor
    mask: Tensor


class Actions(NamedTuple):
    """Action ids per RGB frame of the chunk, `[b or 1, n]` each."""

    move: Int[Tensor, "b n"]
    view: Int[Tensor, "b n"]


class Address(NamedTuple):
    """Reckoned poses (heading, x, y) of everything in a chunk's sequence, in one world frame.

    Those of codes may have the spread of their headings as a fourth number.
    `ages` counts the latents from a memory's last one to the local frame.
    """

    memory: Float[Tensor, "b k p"]
    ages: Float[Tensor, "b k"]
    local: Float[Tensor, "b 3"]
    target: Float[Tensor, "b t 3"]


class LayerContext(NamedTuple):
    """One block's view of the conditioning.

    `normed_memory` is the normalised input of the block's memory stream; `memory` its keys and
    values where they do not depend on the timestep (a fixed stream), else None.
    """

    normed_memory: Tensor
    memory: KeysValues | None
    text: KeysValues | None


class Context(NamedTuple):
    """All that `WorldTransformer.velocity` needs besides the noisy latents and the timestep."""

    layers: tuple[LayerContext, ...]
    memory_at: Rotation
    target_at: Rotation
    target_offset: Float[Tensor, "b t d"]
    """Added to every token of a target frame: its action, and its reckoned pose."""
