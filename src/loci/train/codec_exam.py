"""What a stage-2 autoencoder is worth on objects it has not seen."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from loci.geometry.splat_render import render_gaussians
from loci.geometry.surface_distance import mesh_points, surface_distance
from loci.train.codec_parts import CodecParts
from loci.train.latent_batches import codec_batch
from loci.train.latent_set import LatentSet, SeenView
from loci.train.run import RunDirectory

POINTS = 4096
PIXELS = 128
VIEWS = 2
WHITE = torch.ones(3)


@torch.no_grad()
def examine_codec(
    parts: CodecParts, test: LatentSet, count: int, run: RunDirectory
) -> dict[str, float]:
    """Means over `count` objects spread over `test`; writes a sheet, true views above renders.

    psnr is that of renders of the Gaussians over white, in dB; chamfer (object's frame) and
    f_score (at 0.05) are those of the mesh against surface samples.
    """
    psnrs, distances, above, below = [], [], [], []
    for number in spread(len(test), count):
        rng = torch.Generator().manual_seed(number)
        batch = codec_batch([test.items[number]], POINTS, rng)
        latents = parts.encoder(batch.features, batch.voxels)[0]
        gaussians = parts.gaussians.decode(latents, batch.voxels)[0]
        for view in spread(test.views, VIEWS):
            seen = test.recorded(number, view).seen(PIXELS)
            drawn = render_gaussians(gaussians, seen.camera, PIXELS, WHITE).colour
            psnrs.append(picture_psnr(drawn, seen))
            above.append(seen.over(WHITE))
            below.append(drawn)
        mesh = parts.mesh.decode(latents, batch.voxels)[0]
        distances.append(surface_distance(mesh_points(mesh, POINTS, rng), batch.samples[:, :3]))
    run.sheet("codec", sheet_rows(above, below))
    scores = zip(*distances, strict=True)
    chamfer, f_score = (sum(values) / len(values) for values in scores)
    return {"psnr": sum(psnrs) / len(psnrs), "chamfer": chamfer, "f_score": f_score}


def picture_psnr(drawn: Float[Tensor, "3 s s"], seen: SeenView) -> float:
    """Peak signal-to-noise ratio over white, of the whole picture, in dB."""
    error = (drawn.clamp(0, 1) - seen.over(WHITE)).square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))


def spread(total: int, count: int) -> list[int]:
    """`count` numbers spread evenly over range(total), or all of them."""
    return torch.linspace(0, total - 1, min(count, total)).long().tolist()


def sheet_rows(*rows: list[Tensor], width: int = 12) -> list[Tensor]:
    """Rows of pictures in [0, 1], cut to a width and interleaved, for `RunDirectory.sheet`."""
    stacked = [torch.stack(row).clamp(0, 1) * 2 - 1 for row in rows]
    starts = range(0, len(stacked[0]), width)
    return [row[start : start + width] for start in starts for row in stacked]
