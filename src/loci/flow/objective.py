"""The flow-matching objective: x_s = (1 - s) data + s noise, target velocity noise - data."""

from jaxtyping import Float
from torch import Tensor


def noised(
    data: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"], level: Float[Tensor, "b"]
) -> Float[Tensor, "b *d"]:
    """The point at noise level s in [0, 1] on the straight line from data to noise."""
    s = level.view(-1, *(1 for _ in data.shape[1:]))
    return (1 - s) * data + s * noise


def flow_loss(
    velocity: Float[Tensor, "b *d"], data: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"]
) -> Float[Tensor, "b"]:
    """Mean squared error to noise - data, per sample (Infinite-World, 7)."""
    return (velocity.float() - (noise - data)).pow(2).flatten(1).mean(dim=1)
