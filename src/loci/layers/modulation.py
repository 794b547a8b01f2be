"""How a block of a transformer is bent to a timestep."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Modulation(NamedTuple):
    """Six vectors `[..., d]`: the first three for attention, the others for the feed-forward."""

    shift1: Tensor
    scale1: Tensor
    gate1: Tensor
    shift2: Tensor
    scale2: Tensor
    gate2: Tensor


def modulated(
    normed: Float[Tensor, "... d"], shift: Float[Tensor, "... d"], scale: Float[Tensor, "... d"]
) -> Float[Tensor, "... d"]:
    """normed * (1 + scale) + shift in the widest of their types, returned in that of `normed`."""
    return (normed * (1 + scale) + shift).to(normed.dtype)


def gated(
    x: Float[Tensor, "... d"], update: Float[Tensor, "... d"], gate: Float[Tensor, "... d"]
) -> Float[Tensor, "... d"]:
    """x + update * gate in the widest of their types, returned in that of `x`."""
    return (x + update * gate).to(x.dtype)
