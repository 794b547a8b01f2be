"""Sampling stage 1: noise to shape and layout latents."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from loci.flow.guidance import guided_within
from loci.flow.policy import State, StepPolicy
from loci.flow.sampler import sample
from loci.flow.schedule import TIMESTEPS, check_temperature, rescaled_times
from loci.objects.structure_flow import StructureFlow, for_all


@dataclass(frozen=True)
class StructureSampling:
    """The released run: 19 guided and 6 plain steps, 44 evaluations (SAM 3D Objects, 5).

    `interval` is the part of the run, as 1000 times the time, that is guided. With `shortcut` the
    network is told how long the steps are, so that few suffice, and there is no guidance. As
    released it is told 1 / steps at every step, also where the grid's steps are not equally long.
    `temperature` is how loud the noise is that a run begins with: below 1 it ends with likelier
    shapes.
    """

    steps: int = 25
    rescale: float = 3.0
    guidance: float = 7.0
    interval: tuple[float, float] = (0.0, 500.0)
    shortcut: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def fewer(self, part: float) -> "StructureSampling":
        """With a part of the steps, at least one."""
        return replace(self, steps=max(1, round(part * self.steps)))


def sample_structure(
    flow: StructureFlow,
    condition: Float[Tensor, "c m d"],
    noise: State,
    settings: StructureSampling | None = None,
    policy: StepPolicy | None = None,
    on_step: Callable[[int, State], None] | None = None,
    guide_every: int = 1,
) -> State:
    """The latents of an object, by released name.

    Args:
        flow: the stage-1 network.
        condition: tokens of the picture, made by the fuser; one row may stand for all.
        noise: as made by `flow.noise`.
        settings: the released run by default.
        policy: may propose a velocity instead of an evaluation; evaluates every step by default.
        on_step: called before each step with its index and the state.
        guide_every: as `every` of `guided_within`.
    """
    settings = settings or StructureSampling()
    # In float64, so that the steps' lengths are the released ones to the last bit.
    times = rescaled_times(settings.steps, settings.rescale, torch.float64)
    told = TIMESTEPS / settings.steps if settings.shortcut else 0.0
    context = for_all(flow.context(condition), len(next(iter(noise.values()))))
    velocity = guided_within(
        lambda x, t: flow.velocity(x, t, context, torch.full_like(t, told)),
        lambda x, t: flow.velocity(x, t, None, torch.full_like(t, told)),
        0.0 if settings.shortcut else settings.guidance,
        settings.interval,
        guide_every,
    )
    noise = {name: settings.temperature * x for name, x in noise.items()}
    return sample(velocity, noise, times[:-1] * TIMESTEPS, policy, on_step, end=1.0)
