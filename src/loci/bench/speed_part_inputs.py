"""Something to put into every part of a lifter, of the right shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from loci.layers.sparse import Voxels
from loci.objects.conditioning import POINTMAPS
from loci.objects.lifting import LifterConfig, Subject
from loci.objects.parts import (
    GAUSSIAN_DECODER,
    LATENT_FLOW,
    LATENT_FUSER,
    MESH_DECODER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    STRUCTURE_FUSER,
    PartConfigs,
)
from loci.objects.view import View


class Inputs:
    """Calls of each part, by what they are called in a table.

    Parts are asked in the order of a run: flows take the condition that the fuser before them made.
    """

    def __init__(
        self,
        parts: PartConfigs,
        run: LifterConfig,
        voxels: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.tensors = _disc(run).tensors
        self.voxels = Voxels(shell(voxels, parts.gaussian_decoder.torso.resolution).to(device))
        tokens, channels = parts.structure_flow.resolution**3, parts.structure_flow.shape_channels
        self.shape = torch.randn(1, tokens, channels, device=device, dtype=dtype)
        self.condition = torch.zeros(1, 1, 1)

    def calls(self, name: str, part: Any) -> dict[str, Callable[[], Any]]:
        """What is measured of a part."""
        places, time = self.voxels, torch.full((1,), 250.0, device=self.device)
        if name in (STRUCTURE_FUSER, LATENT_FUSER):
            tensors = {n: x.to(self.device, self.dtype) for n, x in self.tensors.items()}
            dropped = [n for n in POINTMAPS if n not in tensors]
            self.condition = part(tensors, dropped)
            stage = "structure" if name == STRUCTURE_FUSER else "latents"
            return {f"pictures of {stage}": lambda: part(tensors, dropped)}
        if name == STRUCTURE_FLOW:
            chance = torch.Generator(self.device).manual_seed(0)
            noise, context = part.noise(1, chance), part.context(self.condition)
            return {
                "structure": lambda: part.velocity(noise, time, context),
                "structure uncond": lambda: part.velocity(noise, time, None),
            }
        if name == STRUCTURE_DECODER:
            return {"voxels": lambda: part(self.shape)}
        if name == LATENT_FLOW:
            latents = torch.randn(len(places), part.config.channels, device=self.device)
            context = part.context(self.condition)
            return {
                "latents": lambda: part.velocity(latents, time, places, context),
                "latents uncond": lambda: part.velocity(latents, time, places, None),
            }
        latents = torch.randn(len(places), part.config.torso.channels, device=self.device)
        works = {GAUSSIAN_DECODER: "gaussians", MESH_DECODER: "mesh"}
        return {works[name]: lambda: part(latents, places)}


def shell(count: int, resolution: int) -> Int[Tensor, "n 4"]:
    """So many voxels as near as can be to a sphere a third of the grid wide, in order."""
    coords = torch.cartesian_prod(torch.zeros(1).long(), *[torch.arange(resolution)] * 3)
    apart = ((coords[:, 1:] + 0.5 - resolution / 2).norm(dim=1) - resolution / 3).abs()
    return coords[apart.argsort()[:count].sort().values]


def _disc(run: LifterConfig) -> Subject:
    """A slanted wall of noise, and a disc on it."""
    chance, side = np.random.default_rng(0), run.input_size
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    view = View.read(chance.integers(0, 256, (side, side, 3), dtype=np.uint8), 2 + rows, fov=50.0)
    return view.subject(rows**2 + columns**2 < 0.1, "disc", 0, run)
