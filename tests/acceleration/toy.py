"""A flow with a known course, and a run that writes down what was evaluated."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loci.flow import State, StepPolicy, TokenIndices, rescaled_times, sample

INTERVAL = (0.0, 500.0)
NAMES = ("shape", "scale")


@dataclass
class Toy:
    """v(x, t) that bends in t and depends on x a little; another function within the interval."""

    guided: bool = True
    bend: float = 1.0
    evaluated: list[float] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)

    def __call__(self, state: State, timestep: Tensor) -> State:
        t = timestep[0].item()
        self.evaluated.append(t)
        jump = 3.0 if self.guided and INTERVAL[0] <= t <= INTERVAL[1] else 0.0
        bent = 1 + jump + self.bend * math.sin(4 * t / 1000)
        return {name: bent - 0.3 * x for name, x in state.items()}

    def partial(self, state: State, timestep: Tensor, indices: TokenIndices) -> State:
        self.parts.append(len(indices))
        return {name: v[indices] for name, v in self(state, timestep).items()}


def noise(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        "shape": torch.randn(1, 16, 4, generator=generator),
        "scale": torch.randn(1, 1, 3, generator=generator),
    }


def tokens(count: int = 40) -> State:
    return {"latents": torch.randn(count, 4, generator=torch.Generator().manual_seed(1))}


def times(steps: int = 25, rescale: float = 3.0) -> Tensor:
    return rescaled_times(steps, rescale, torch.float64)[:-1] * 1000


def run(
    policy: StepPolicy | None,
    toy: Toy | None = None,
    start: State | None = None,
    steps: int = 25,
    rescale: float = 3.0,
) -> tuple[State, Toy]:
    """The end of a run, and the toy that tells what was evaluated."""
    toy = toy or Toy()
    end = sample(
        toy,
        start or noise(),
        times(steps, rescale),
        policy=policy,
        end=1.0,
        partial=toy.partial,
    )
    return end, toy


def error(state: State, exact: State) -> float:
    return max(float((state[n] - x).norm() / x.norm()) for n, x in exact.items())


def same(state: State, other: State) -> bool:
    return all(torch.equal(state[name], x) for name, x in other.items())
