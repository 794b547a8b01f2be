"""Worlds as Gymnasium environments: `gymnasium.make("loci.gym:loci/Walk-v0", picture=...)`, and
`gymnasium.make_vec` with the same name for several walks that are generated together."""

import gymnasium

from loci.gym.env import FlatActions, WalkEnv, known
from loci.gym.vector import VectorWalkEnv

__all__ = ["FlatActions", "VectorWalkEnv", "WalkEnv", "known"]

gymnasium.register(
    "loci/Walk-v0",
    entry_point="loci.gym.env:WalkEnv",
    vector_entry_point="loci.gym.vector:VectorWalkEnv",
)
