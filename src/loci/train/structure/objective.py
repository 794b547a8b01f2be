"""What stage 1 is trained on: flow matching of five latents at once, under what a picture says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.flow import TIMESTEPS, flow_loss, noised, sample_levels
from loci.nn.attention import KeysValues
from loci.objects.models.condition import POINTMAPS, EmbedderFuser, FuserConfig
from loci.objects.models.structure_flow import (
    SHAPE,
    StructureContext,
    StructureFlow,
    StructureFlowConfig,
    TwoStreamBlock,
)
from loci.objects.placement.pose import ROTATION
from loci.train.structure.data import CoordinateReader, StructureBatch, coordinate_loss
from loci.train.structure.init import initialise_fuser

GATES = (2, 5)
"""Which of the six parts of a block's modulation are gates."""


COORDINATES = "coordinates"


def loss_weights() -> dict[str, float]:
    """How much each latent counts, and what the picture's tokens tell of the object's places;
    `translation_scale` is 0 in every target."""
    return {
        SHAPE: 1.0,
        ROTATION: 1.0,
        "translation": 0.4,
        "scale": 0.4,
        "translation_scale": 0.02,
        COORDINATES: 1.0,
    }


@dataclass(frozen=True)
class StructureLoss:
    """How a batch is judged.

    Attributes:
        dropped: share of samples without any condition, which guidance needs.
        level_means: of the logit-normal noise levels, one level per sample for each: the condition
            is the dear part, and is made once. Above 0 prefers noise. A shape has thousands of
            numbers: under nine parts of noise in ten they still tell which object it is, and the
            picture is of no use. Only where there is next to nothing but noise it has to be heard,
            and there sampling begins.
        weights: of the parts, by name.
    """

    dropped: float = 0.1
    level_means: tuple[float, ...] = (4.5, 1.5, -0.5)
    weights: Mapping[str, float] = field(default_factory=loss_weights)


class StructureObjective(nn.Module):
    """Fuser and flow as one module, so that they can be trained on several processes."""

    def __init__(self, fuser: FuserConfig, flow: StructureFlowConfig, loss: StructureLoss) -> None:
        super().__init__()
        self.fuser, self.flow, self.loss = EmbedderFuser.of(fuser), StructureFlow(flow), loss
        self.reader = CoordinateReader(fuser)
        initialise_fuser(self.fuser)
        initialise(self.flow)

    def condition(self, batch: StructureBatch) -> Float[Tensor, "b m c"]:
        """The tokens of every sample; where there is no pointmap its tokens are zeros."""
        count = batch.with_pointmap
        parts = []
        if count:
            seen = {name: x[:count] for name, x in batch.pictures.items()}
            parts.append(self.fuser({**seen, **batch.pointmaps}))
        if count < len(batch.objects):
            seen = {name: x[count:] for name, x in batch.pictures.items()}
            parts.append(self.fuser(seen, dropped=POINTMAPS))
        return torch.cat(parts)

    def picture_alone(self, batch: StructureBatch) -> Float[Tensor, "b m c"]:
        """As `condition`, but only the tokens of the picture's crop are not zeros."""
        names = [source.name for row in self.fuser.sources for source in row]
        return self.fuser(batch.pictures, dropped=[name for name in names if name != "image"])

    def forward(
        self,
        batch: StructureBatch,
        data: Mapping[str, Tensor],
        rng: torch.Generator,
        reading: bool = False,
    ) -> dict[str, Float[Tensor, ""]]:
        """Mean squared error of every latent's velocity, and of the object's places as read off
        the tokens of the crop.

        Args:
            batch: what is seen.
            data: the latents behind it by released name, `[b, n, c]`.
            rng: of levels, noise and dropping; on the CPU.
            reading: only the places, from the crop alone; all else waits.
        """
        condition = self.picture_alone(batch) if reading else self.condition(batch)
        places = {COORDINATES: coordinate_loss(self.reader(condition), batch.coordinates)}
        if reading:
            return places
        kept = torch.rand(len(condition), generator=rng) >= self.loss.dropped
        condition = condition * kept.to(condition)[:, None, None]
        draws, size = len(self.loss.level_means), len(condition)
        context = repeated(self.flow.context(condition), draws)
        levels = [sample_levels(size, 1.0, rng, mean) for mean in self.loss.level_means]
        level = torch.cat(levels).to(condition.device)
        data = {name: x.repeat(draws, 1, 1) for name, x in data.items()}
        noise = {
            name: torch.randn(x.shape, generator=rng).to(x) for name, x in sorted(data.items())
        }
        state = {name: noised(x, noise[name], level) for name, x in data.items()}
        velocity = self.flow.velocity(state, (1 - level) * TIMESTEPS, context)
        # This flow counts from noise to data: its velocity is data - noise.
        return places | {
            name: flow_loss(v, noise[name], data[name]).mean() for name, v in velocity.items()
        }

    def total(self, losses: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The weighted sum that is minimised."""
        return torch.stack([self.loss.weights[name] * x for name, x in losses.items()]).sum()


def repeated(context: StructureContext | None, times: int) -> StructureContext | None:
    """The same condition for `times` copies of the batch, one after the other."""
    if context is None or times == 1:
        return context
    return tuple(
        {
            stream: KeysValues(*(part.repeat(times, 1, 1, 1) for part in pair))
            for stream, pair in keys.items()
        }
        for keys in context
    )


@torch.no_grad()
def initialise(flow: StructureFlow) -> None:
    """Begins as a plain transformer that predicts no motion: gates are 1, time bends nothing."""
    for block in flow.blocks:
        linear = cast(TwoStreamBlock, block).adaLN_modulation[-1]
        assert isinstance(linear, nn.Linear)
        linear.weight.zero_()
        for number, part in enumerate(linear.bias.chunk(6)):
            part.fill_(float(number in GATES))
    for name in flow.latent_mapping:
        head = cast(nn.Linear, flow.latent_mapping[name].out_layer)
        head.weight.zero_()
        head.bias.zero_()
