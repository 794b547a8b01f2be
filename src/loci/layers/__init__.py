"""Building blocks both systems share: attention, rotary positions, norms, weights on disk."""
