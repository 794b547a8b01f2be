"""Evaluation of stage 2's autoencoder on held-out objects: renders and meshes, not losses."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.gaussians.render import render_gaussians
from loci.geometry.mesh.distance import mesh_points, surface_distance
from loci.train.run_directory import RunDirectory
from loci.train.slat.parts import SlatVAE
from loci.train.slat.vae_data import SlatDataset, TargetView, slat_vae_batch

POINTS = 4096
PIXELS = 128
VIEWS = 2
WHITE = torch.ones(3)


@torch.no_grad()
def evaluate_slat_vae(
    parts: SlatVAE, test: SlatDataset, count: int, run: RunDirectory
) -> dict[str, float]:
    """Means over `count` objects spread over `test`; writes a sheet, true views above renders.

    psnr is that of renders of the Gaussians over white, in dB; chamfer (object's frame) and
    f_score (at 0.05) are those of the mesh against surface samples.
    """
    device = next(parts.parameters()).device
    psnrs, distances, true, rendered = [], [], [], []
    for number in evenly_spaced(len(test), count):
        rng = torch.Generator().manual_seed(number)
        batch = slat_vae_batch([test.items[number]], POINTS, rng).to(device)
        latents = parts.encoder(batch.features, batch.voxels)[0]
        gaussians = parts.gaussians.decode(latents, batch.voxels)[0]
        for view in evenly_spaced(test.views, VIEWS):
            target = test.view(number, view).target(PIXELS).to(device)
            render = render_gaussians(gaussians, target.camera, PIXELS, WHITE).color
            psnrs.append(render_psnr(render, target))
            true.append(target.over(WHITE))
            rendered.append(render)
        mesh = parts.mesh.decode(latents, batch.voxels)[0]
        distances.append(surface_distance(mesh_points(mesh, POINTS, rng), batch.samples[:, :3]))
    run.sheet("codec", sheet_rows(true, rendered))
    scores = zip(*distances, strict=True)
    chamfer, f_score = (sum(values) / len(values) for values in scores)
    return {"psnr": sum(psnrs) / len(psnrs), "chamfer": chamfer, "f_score": f_score}


def render_psnr(render: Float[Tensor, "3 s s"], target: TargetView) -> float:
    """Peak signal-to-noise ratio over white, of the whole picture, in dB."""
    error = (render.clamp(0, 1) - target.over(WHITE)).square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` numbers spread evenly over range(total), or all of them."""
    return torch.linspace(0, total - 1, min(count, total)).long().tolist()


def sheet_rows(*rows: list[Tensor], width: int = 12) -> list[Tensor]:
    """Rows of pictures in [0, 1], cut to a width and interleaved, for `RunDirectory.sheet`."""
    stacked = [torch.stack(row).clamp(0, 1) * 2 - 1 for row in rows]
    starts = range(0, len(stacked[0]), width)
    return [row[start : start + width] for start in starts for row in stacked]
