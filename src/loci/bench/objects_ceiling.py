"""The ceiling: the true object through both autoencoders, as if the flows made no error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from loci.bench.objects_cases import Case
from loci.bench.objects_marks import Guess, surface_points
from loci.objects.structure_decoder import StructureDecoder
from loci.objects.structure_encoder import StructureEncoder
from loci.train.codec_parts import CodecParts
from loci.train.latent_targets import encoded
from loci.train.shape_batches import coarser
from loci.train.structure_exam import Codec


@dataclass(frozen=True)
class Ceiling:
    """The autoencoders of voxels and of what they hold, in evaluation mode."""

    voxels: Codec
    contents: CodecParts

    @classmethod
    def load(cls, structure_codec: Path, latent_codec: Path) -> Ceiling:
        """From the folders of the finished runs that trained them.

        Raises:
            LociError: when a part is missing, damaged or does not fit.
        """
        final = structure_codec / "final"
        halves = Codec(
            StructureEncoder.from_pretrained(final / "structure_encoder").float(),
            StructureDecoder.from_pretrained(final / "structure_decoder").float(),
        )
        return cls(halves, CodecParts.from_pretrained(latent_codec / "final"))

    @torch.no_grad()
    def guess(self, case: Case) -> Guess | None:
        """The object at its true place; None when no voxel is left of it.

        Voxels go through the first autoencoder, and what the true surface has in those that come
        out goes through the second.
        """
        truth = coarser(case.occupancy, len(case.occupancy) // case.item.resolution)
        coords = torch.argwhere(self.voxels.shapes(self.voxels.latents(truth[None]))[0])
        if not len(coords):
            return None
        voxels, latents, _ = encoded([case.item._replace(coords=coords)], self.contents.encoder)
        gaussians = self.contents.gaussians.decode(latents, voxels)[0]
        mesh = self.contents.mesh.decode(latents, voxels)[0]
        points = surface_points(mesh)
        return Guess(points, coords, case.item.resolution, gaussians, case.placement)


def missing(structure_codec: Path, latent_codec: Path) -> str | None:
    """Why there is no ceiling, if there is none."""
    folders = [
        structure_codec / "final" / "structure_encoder",
        latent_codec / "final" / "latent_encoder",
    ]
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if not absent:
        return None
    return f"{absent[0]}: not there; encoders are kept by the training runs, not by the model"
