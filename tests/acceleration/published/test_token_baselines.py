"""What only the published token policies do."""

import torch

from loci.acceleration.published.token_baselines import Fast3DCache


def test_a_full_step_ends_every_streak() -> None:
    """Tokens that were left out three times are evaluated, counted from the last full step."""
    cache, timesteps = Fast3DCache(), torch.linspace(1000.0, 100.0, 20)
    state = {"x": torch.zeros(10, 2)}
    velocity = torch.arange(20.0).view(10, 2)
    cache.velocities = [velocity, 2 * velocity]
    chosen = cache.select(6, timesteps, state)
    assert chosen is not None
    assert cache.streak is not None
    assert cache.select(0, timesteps, state) is None
    assert cache.streak is None
