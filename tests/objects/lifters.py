"""A tiny lifter with random weights that finds something in every picture."""

import copy
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from loci.objects.config import LifterConfig
from loci.objects.lifter import Lifter
from loci.objects.models.condition import FuserConfig, PointmapEmbedderConfig
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedderConfig
from loci.objects.models.slat_decoders import GaussianDecoderConfig, MeshDecoderConfig, TorsoConfig
from loci.objects.models.slat_flow import SlatFlowConfig, SlatStatistics
from loci.objects.models.structure_flow import StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoderConfig
from loci.objects.parts import PARTS, LoadedParts, PartConfigs
from loci.objects.sampling import SlatSampling, StructureSampling

BACKBONE = DinoConfig(patch=7, dim=16, depth=1, heads=2, registers=1, grid=4)
TORSO = TorsoConfig(channels=4, dim=24, blocks=2, heads=2, window=2, resolution=4)


def small_parts() -> PartConfigs:
    """Two to the third shape tokens, voxels in a grid of four."""
    return PartConfigs(
        structure_fuser=FuserConfig(
            DinoEmbedderConfig(BACKBONE, 28),
            pointmap=PointmapEmbedderConfig(input_size=16, dim=16, heads=2),
            dim=16,
        ),
        structure_flow=StructureFlowConfig(16, 16, 1, 2, resolution=2, frequencies=16),
        structure_decoder=StructureDecoderConfig(8, (16, 8), 1, 1),
        slat_fuser=FuserConfig(DinoEmbedderConfig(BACKBONE, 28, "prenorm"), dim=16),
        slat_flow=SlatFlowConfig(4, 16, 16, 1, 2, io_channels=(8,), frequencies=16),
        gaussian_decoder=GaussianDecoderConfig(TORSO, gaussians=2),
        mesh_decoder=MeshDecoderConfig(TORSO, narrowing=(2,), norm_groups=4),
    )


def small_config(**changes: Any) -> LifterConfig:
    fields = {
        "input_size": 28,
        "structure": StructureSampling(steps=3),
        "slat": SlatSampling(steps=2, statistics=SlatStatistics((0.0,) * 4, (1.0,) * 4)),
    }
    return LifterConfig(**cast(Any, fields | changes))


def small_modules() -> dict[str, nn.Module]:
    """Every part; the same numbers every time, and nobody else's."""
    return copy.deepcopy(_small_modules())


@cache
def _small_modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    modules = {name: small_parts().build(name).eval() for name in PARTS}
    for name in ("structure_fuser", "slat_fuser"):
        nn.init.normal_(cast(Any, modules[name]).idx_emb)
    # Spread over zero, so that there is always an inside and an outside.
    for name in ("structure_decoder", "mesh_decoder"):
        for weight in cast(Any, modules[name]).out_layer.parameters():
            weight.data *= 5
    return modules


def small_lifter(**changes: Any) -> Lifter:
    return Lifter(small_config(**changes), LoadedParts(small_modules()))


def save_small_lifter(folder: Path) -> Path:
    """The folder of a model, as training leaves it."""
    small_lifter().save_pretrained(folder)
    return folder


def example(height: int = 40, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A picture and a mask in it."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 5, columns * 4, rows + columns], axis=2) % 256
    inside = (rows - height * 0.5) ** 2 + (columns - width * 0.6) ** 2 < (height * 0.3) ** 2
    return pixels.astype(np.uint8), inside


def example_pointmap(height: int = 40, width: int = 60, fov: float = 40.0) -> np.ndarray:
    """A slanted wall, metres, x left, y up, z forward."""
    from loci.geometry.camera import Camera

    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return Camera.identity(fov).unproject(3 + rows * 0.01 + columns * 0.02).numpy()
