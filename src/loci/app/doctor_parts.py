"""What a walk of 81 frames and a lift need on this machine, for `loci doctor`.

Operations are counted, rates are those of one block timed here, memory is computed from weights and
activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from loci.app.ram import lift_ram, walk_ram
from loci.bench.published import (
    structure_operations,
    time_structure_flow,
    time_world,
    world_operations,
)
from loci.objects.models.structure_flow import StructureFlowConfig
from loci.world.config import SamplingConfig
from loci.world.transformer import TransformerConfig

FIXED_LIFT = 4.8 + 4.2 + 0.8 + 1.8 + 3.6
"""TFLOP of image encoders and decoders at 10 000 voxels."""
LATENT_EVALUATION = 4.9
"""TFLOP of an evaluation of stage 2 at 10 000 voxels: 5.8; 3.1 without a condition (13 of 38)."""
WALK, LIFT = 2, 1
"""Prompts (with the negative one) and objects."""

Row = tuple[str, float, float, float]


def walk_needs(model: Path, dtype: torch.dtype, height: int, width: int) -> Iterator[Row]:
    """A chunk: what, operations, operations a second, bytes at the peak."""
    config, sampling = TransformerConfig(), SamplingConfig()
    share = time_world(dtype, frames=4, side=32, calls=1)
    tokens = (height // 16) * (width // 16)
    evaluation = world_operations(config, 21 * tokens, 2 * tokens)
    need = walk_ram(model, dtype, height, width)
    peak = 0.0 if need is None else need.total("resident")
    name = f"81 frames at {height}x{width}"
    yield f"{name}, one step", WALK * evaluation, share.rate, peak
    yield f"{name}, {sampling.steps} steps", sampling.steps * WALK * evaluation, share.rate, peak


def lift_needs(model: Path, dtype: torch.dtype) -> Iterator[Row]:
    """A lift with the exact schedule and with `faster`, at 10 000 voxels."""
    share = time_structure_flow(dtype, calls=1)
    evaluation = structure_operations(StructureFlowConfig())
    # Without a condition there is no attention to it: 19 of the 25 steps evaluate that as well.
    exact = 25 * evaluation + 19 * 0.6 * evaluation + (38 * LATENT_EVALUATION + FIXED_LIFT) * 1e12
    need = lift_ram(model, dtype)
    peak = 0.0 if need is None else need.total("resident")
    yield "a lift, exact, 10 000 voxels", exact, share.rate, peak
    yield "a structure evaluation", evaluation, share.rate, peak
