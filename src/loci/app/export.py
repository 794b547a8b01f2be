"""The commands `train export-world` and `train export-home`, importing what they need only when
they run. Trainings are called with their configurations (`loci.cli`)."""

from __future__ import annotations

from pathlib import Path


def export_world(
    world: Path,
    out: Path,
    codec: Path | None = None,
    average_with: Path | None = None,
    average_share: float = 0.5,
) -> None:
    """Put a trained world and its codec together as one model that loci walk can load.

    Args:
        world: the folder of a finished run of loci train world; or a model folder, whose codec is
            replaced.
        out: the model folder to write, with bfloat16 weights.
        codec: the folder of a finished run of loci train codec or loci train decoder, in place of
            the codec that the world was trained with.
        average_with: a model folder whose transformer's weights are averaged with the run's: a
            finetuned model keeps more of what the model it began with could do.
        average_share: the run's share of that average, from 0 to 1.
    """
    from loci.train.world import export

    export.export_world(codec, world, out, average_with, average_share)


def export_lifter(
    structure_vae: Path,
    structure: Path,
    slat_vae: Path,
    slat: Path,
    out: Path,
    data: Path = Path("runs/objects"),
) -> None:
    """Put trained parts together as one model that loci lift can load.

    Args:
        structure_vae: the folder of a finished run of loci train structure-vae.
        structure: the folder of a finished run of loci train structure.
        slat_vae: the folder of a finished run of loci train slat-vae.
        slat: the folder of a finished run of loci train slat.
        out: the model folder to write, with bfloat16 weights; an older model there is replaced.
        data: the objects that all were trained on, for licences and an example picture.
    """
    from loci.train import export_lifter as export

    export.export_lifter(export.Runs(structure_vae, structure, slat_vae, slat), data, out)
