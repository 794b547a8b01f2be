"""Sampling stage 2: noise to the latents of every voxel."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from loci.flow.guidance import Velocity, guided_within
from loci.flow.policy import Rows, State, StepPolicy, TokenPolicy
from loci.flow.sampler import sample
from loci.flow.schedule import TIMESTEPS, check_temperature, rescaled_times
from loci.layers.sparse import Voxels
from loci.objects.latent_branches import LatentBranch
from loci.objects.latent_flow import LatentFlow, LatentStatistics

LATENTS = "latents"
"""The name of the only tensor that flows in stage 2."""


@dataclass(frozen=True)
class LatentSampling:
    """The released run: 13 guided and 12 plain steps, 38 evaluations (SAM 3D Objects, 5).

    `interval` is the part of the run, as 1000 times the time, that is guided. The released
    distilled mode of stage 2 is a `guidance` of 0 and nothing else. `temperature` is how loud the
    noise is that a run begins with: below 1 it ends with what is likelier, and more even.
    """

    steps: int = 25
    rescale: float = 1.0
    guidance: float = 1.0
    interval: tuple[float, float] = (0.0, 500.0)
    statistics: LatentStatistics = field(default_factory=LatentStatistics)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def fewer(self, part: float) -> "LatentSampling":
        """With a part of the steps, at least one."""
        return replace(self, steps=max(1, round(part * self.steps)))


def latent_noise(
    flow: LatentFlow, voxels: Voxels, generator: torch.Generator | None = None
) -> Float[Tensor, "n c"]:
    """Standard normal latents on the voxels' device; float32. Drawn after stage 1's noise."""
    shape = (len(voxels), flow.config.channels)
    return torch.randn(shape, generator=generator, device=voxels.coords.device)


def sample_latents(
    flow: LatentFlow,
    condition: Float[Tensor, "b m c"],
    voxels: Voxels,
    noise: Float[Tensor, "n c"],
    settings: LatentSampling | None = None,
    policy: StepPolicy | None = None,
    on_step: Callable[[int, State], None] | None = None,
    guide_every: int = 1,
    aligned: Float[Tensor, "n a"] | None = None,
) -> Float[Tensor, "n c"]:
    """The latents of an object's voxels, denormalised: what the decoders take.

    Args:
        flow: the stage-2 network.
        condition: tokens of the picture, made by the fuser, a row for every item.
        voxels: the structure that stage 1 found.
        noise: as made by `latent_noise`.
        settings: the released run by default.
        policy: may propose a velocity instead of an evaluation, or choose voxels to evaluate;
            evaluates everything by default.
        on_step: called before each step with its index and the state `{"latents": ...}`.
        guide_every: as `every` of `guided_within`; of whole evaluations, a part makes both.
        aligned: the pixels of each voxel, if they are known (`loci.objects.pixel_aligned`).
    """
    settings = settings or LatentSampling()
    times = rescaled_times(settings.steps, settings.rescale)
    keeping = isinstance(policy, TokenPolicy) and not policy.alone
    conditional = LatentBranch(flow, voxels, flow.context(condition, aligned), keeping)
    unconditional = LatentBranch(flow, voxels, None, keeping)

    # Every voxel is at the same time, so the network gets it once.
    def whole(branch: LatentBranch) -> Velocity:
        return lambda x, t: {LATENTS: branch.whole(x[LATENTS], t[:1])}

    def part(branch: LatentBranch, rows: Rows) -> Velocity:
        return lambda x, t: {LATENTS: branch.part(x[LATENTS], t[:1], rows)}

    guidance = settings.guidance, settings.interval

    def partial(state: State, time: Tensor, rows: Rows) -> State:
        branches = part(conditional, rows), part(unconditional, rows)
        return guided_within(*branches, *guidance)(state, time)

    state = sample(
        guided_within(whole(conditional), whole(unconditional), *guidance, guide_every),
        {LATENTS: settings.temperature * noise},
        times[:-1] * TIMESTEPS,
        policy,
        on_step,
        end=1.0,
        partial=partial,
    )
    return settings.statistics.denormalise(state[LATENTS])
