"""The loss of stage 1: flow matching of five latents at once, conditioned on a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loci.flow import TIMESTEPS, add_noise, flow_loss, sample_levels
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
from loci.train.structure.coordinates import CoordinateHead, coordinate_loss
from loci.train.structure.data import StructureBatch
from loci.train.structure.init import initialize_fuser

GATES = (2, 5)
"""Which of the six parts of a block's modulation are gates."""


COORDINATES = "coordinates"


def loss_weights() -> dict[str, float]:
    """Weights of every latent, and of the object coordinates read off the picture's tokens;
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
    """Weights and noise levels of the loss.

    Attributes:
        condition_dropout: share of samples without a condition, for classifier-free guidance.
        logit_means: means of the logit-normal noise levels, one level per sample for each, since
            the condition is expensive and is computed once. Above 0 prefers noise: a shape has
            thousands of numbers, which identify the object up to a noise level of 0.9 and make the
            picture useless; it is only needed near 1, where sampling begins.
        weights: weights of the parts, by name.
    """

    condition_dropout: float = 0.1
    logit_means: tuple[float, ...] = (4.5, 1.5, -0.5)
    weights: Mapping[str, float] = field(default_factory=loss_weights)


class StructureObjective(nn.Module):
    """Fuser and flow as one module, so that they can be trained on several processes."""

    def __init__(self, fuser: FuserConfig, flow: StructureFlowConfig, loss: StructureLoss) -> None:
        super().__init__()
        self.fuser, self.flow = EmbedderFuser.from_config(fuser), StructureFlow(flow)
        self.loss = loss
        self.coordinate_head = CoordinateHead(fuser)
        initialize_fuser(self.fuser)
        initialize_flow(self.flow)

    def condition(self, batch: StructureBatch) -> Float[Tensor, "b m c"]:
        """The tokens of every sample; where there is no pointmap its tokens are zeros."""
        count = batch.with_pointmap
        parts = []
        if count:
            pictures = {name: x[:count] for name, x in batch.pictures.items()}
            parts.append(self.fuser({**pictures, **batch.pointmaps}))
        if count < len(batch.objects):
            pictures = {name: x[count:] for name, x in batch.pictures.items()}
            parts.append(self.fuser(pictures, dropped=POINTMAPS))
        return torch.cat(parts)

    def crop_condition(self, batch: StructureBatch) -> Float[Tensor, "b m c"]:
        """`condition` where only the tokens of the picture's crop are not zeros."""
        names = [source.name for group in self.fuser.sources for source in group]
        return self.fuser(batch.pictures, dropped=[name for name in names if name != "image"])

    def forward(
        self,
        batch: StructureBatch,
        data: Mapping[str, Tensor],
        rng: torch.Generator,
        coordinates_only: bool = False,
    ) -> dict[str, Float[Tensor, ""]]:
        """Mean squared error of every latent's velocity, and the loss of the object coordinates
        that are read off the tokens of the crop.

        Args:
            batch: pictures and pointmaps.
            data: the latents to generate by published name, `[b, n, c]`.
            rng: of levels, noise and dropout; on the CPU.
            coordinates_only: only their loss, from the crop alone.
        """
        condition = self.crop_condition(batch) if coordinates_only else self.condition(batch)
        predicted = self.coordinate_head(condition)
        losses = {COORDINATES: coordinate_loss(predicted, batch.coordinates)}
        if coordinates_only:
            return losses
        present = torch.rand(len(condition), generator=rng) >= self.loss.condition_dropout
        condition = condition * present.to(condition)[:, None, None]
        draws, size = len(self.loss.logit_means), len(condition)
        context = repeated(self.flow.context(condition), draws)
        levels = [sample_levels(size, 1.0, rng, mean) for mean in self.loss.logit_means]
        level = torch.cat(levels).to(condition.device)
        data = {name: x.repeat(draws, 1, 1) for name, x in data.items()}
        noise = {
            name: torch.randn(x.shape, generator=rng).to(x) for name, x in sorted(data.items())
        }
        state = {name: add_noise(x, noise[name], level) for name, x in data.items()}
        velocity = self.flow.velocity(state, (1 - level) * TIMESTEPS, context)
        # This flow counts from noise to data: its velocity is data - noise.
        return losses | {
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
def initialize_flow(flow: StructureFlow) -> None:
    """A plain transformer that predicts velocity 0: gates are 1, time modulates nothing."""
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
