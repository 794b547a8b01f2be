"""Carving that looks at nothing: what any saliency has to be better than."""

import torch
from jaxtyping import Int
from torch import Tensor

from loci.acceleration.progress import is_last
from loci.flow.policy import Rows, State


def random_drop(
    coords: Int[Tensor, "n 4"], share: float, generator: torch.Generator | None = None
) -> Int[Tensor, "m 4"]:
    """The structure with a random `share` of its voxels gone for good; the order stays."""
    if not 0 <= share < 1:
        raise ValueError(f"a share from 0 to below 1 can be dropped, got {share}")
    kept = torch.randperm(len(coords), generator=generator)[: round((1 - share) * len(coords))]
    return coords[kept.sort().values.to(coords.device)]


class RandomTokens:
    """Every step from the third on evaluates other random tokens, alone; the rest keep theirs.

    The last step is whole. The state has one tensor `[tokens, channels]`.
    """

    alone = True

    def __init__(self, share: float, generator: torch.Generator | None = None) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"a share from 0 to below 1 can be dropped, got {share}")
        self.share, self.generator = share, generator
        self.velocity: State = {}

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        if step < 2 or is_last(step, timesteps):
            return None
        (x,) = state.values()
        kept = torch.randperm(len(x), generator=self.generator)[: round((1 - self.share) * len(x))]
        return kept.sort().values.to(x.device)

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        return {name: self.velocity[name].index_copy(0, rows, v) for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        self.velocity = velocity


class MergedTokens:
    """Every step from the third on evaluates the first token of each block, alone, for all of it.

    The last step is whole. The state has one tensor `[tokens, channels]`.

    Args:
        blocks: a label for every token.
    """

    alone = True

    def __init__(self, blocks: Int[Tensor, "n"]) -> None:
        labels, self.place = torch.unique(blocks, return_inverse=True)
        first = torch.full_like(labels, len(blocks))
        everyone = torch.arange(len(blocks), device=blocks.device)
        self.first = first.scatter_reduce(0, self.place, everyone, "amin")

    def propose(self, step: int, timesteps: Tensor, state: State) -> State | None:
        return None

    def choose(self, step: int, timesteps: Tensor, state: State) -> Rows | None:
        return None if step < 2 or is_last(step, timesteps) else self.first.sort().values

    def fill(self, step: int, timesteps: Tensor, state: State, rows: Rows, part: State) -> State:
        order = self.first.argsort().argsort()
        return {name: v[order][self.place] for name, v in part.items()}

    def observe(self, step: int, timesteps: Tensor, state: State, velocity: State) -> None:
        return None
