"""The commands `train` and `convert`, importing what they need only when they run.

The trainings follow the shipped recipe on a folder of recorded walks, go on where they were
stopped, and run unchanged under `accelerate launch -m loci.cli train ...`. Other sizes and recipes
are set in Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from loci.errors import check_seed
from loci.train.precision import Precision


def codec(
    data: Path, out: Path, minutes: float = 30.0, seed: int = 0, precision: Precision = "auto"
) -> None:
    """Train the autoencoder of frames.

    Args:
        data: folder with the recordings train and test, as made by loci data doom.
        out: folder of the run: log, samples, checkpoint; at the end, the codec in final.
        minutes: of training, over all resumes.
        seed: of the weights and the batches.
        precision: what to multiply in; auto is bfloat16 where it is faster.
    """
    check_seed(seed)
    from loci.train.codec import CodecTraining, train_codec
    from loci.train.trainer import TrainingBudget as Budget

    train_codec(
        data, out, CodecTraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    )


def world(
    data: Path,
    codec: Path,
    out: Path,
    start: Path | None = None,
    minutes: float = 90.0,
    addressing: Literal["reckoned", "time"] = "reckoned",
    seed: int = 0,
    precision: Precision = "auto",
) -> None:
    """Train the world model.

    Args:
        data: folder with the recordings train and test, as made by loci data doom.
        codec: the trained codec, a folder or hub id.
        out: folder of the run: log, checkpoint, examinations; at the end, the model in final.
        start: a model folder whose weights to begin with, such as src/loci/shipped/doom; without
            it, from nothing.
        minutes: of training, over all resumes.
        addressing: how memory is addressed: by where a token looks, or as published by time.
        seed: of the weights and the batches.
        precision: what to multiply in; auto is bfloat16 where it is faster.
    """
    check_seed(seed)
    from loci.codecs.frame import FrameCodec
    from loci.train.trainer import TrainingBudget as Budget
    from loci.train.world.train import WorldTraining, train_world
    from loci.world.presets import doom_transformer
    from loci.world.transformer import WorldTransformer

    config = WorldTraining(
        model=doom_transformer(reckoned=addressing == "reckoned"),
        budget=Budget(minutes=minutes),
        seed=seed,
        precision=precision,
    )
    first = start and WorldTransformer.from_pretrained(start / "transformer").float()
    train_world(data, FrameCodec.from_pretrained(codec), out, config, first)


def ship(codec: Path, world: Path, out: Path) -> None:
    """Put trained parts together as one model that loci walk can load.

    Args:
        codec: the folder of a finished run of loci train codec.
        world: the folder of a finished run of loci train world.
        out: the model folder to write, with bfloat16 weights.
    """
    from loci.train.world import export as shipping

    shipping.export_world(codec, world, out)


def export_home(
    structure_codec: Path,
    structure: Path,
    latent_codec: Path,
    latents: Path,
    out: Path,
    data: Path = Path("runs/objects"),
) -> None:
    """Put trained parts together as one model that loci lift can load.

    Args:
        structure_codec: the folder of a finished run of loci train structure-codec.
        structure: the folder of a finished run of loci train structure.
        latent_codec: the folder of a finished run of loci train latent-codec.
        latents: the folder of a finished run of loci train latents.
        out: the model folder to write, with bfloat16 weights; an older model there is replaced.
        data: the objects that all were trained on, for licences and an example picture.
    """
    from loci.train import export_home as shipping

    runs = shipping.Runs(structure_codec, structure, latent_codec, latents)
    shipping.export_home(runs, data, out)


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
) -> None:
    """Turn published weights into safetensors.

    Checks the name and the shape of every tensor, and writes a folder that --model takes.

    Args:
        source: the published folder of Infinite-World, or its transformer's file, or the published
            folder of SAM 3D Objects.
        out: the model folder to write.
    """
    from loci.objects import released as objects
    from loci.world import released as world

    if (parts := objects.ReleasedParts.find(source)) is not None:
        objects.convert(parts, out)
    else:
        world.convert(source, out)


def structure_codec(
    data: Path, out: Path, minutes: float = 15.0, seed: int = 0, precision: Precision = "auto"
) -> None:
    """Train the autoencoder of objects' voxels.

    Args:
        data: folder with the objects train and test, as made by loci data objects.
        out: folder of the run: log, samples, checkpoint; at the end, both halves in final.
        minutes: of training, over all resumes.
        seed: of the weights and the batches.
        precision: what to multiply in; auto is bfloat16 where it is faster.
    """
    check_seed(seed)
    from loci.train.structure.vae import StructureVAETraining as StructureVAETraining
    from loci.train.structure.vae import train_structure_vae as train_structure_vae
    from loci.train.trainer import TrainingBudget as Budget

    config = StructureVAETraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_structure_vae(data, out, config)


def structure(
    data: Path,
    codec: Path,
    out: Path,
    minutes: float = 40.0,
    seed: int = 0,
    precision: Precision = "auto",
) -> None:
    """Train what finds an object's shape and pose in a picture.

    Args:
        data: folder with the objects train and test, as made by loci data objects.
        codec: the folder of a finished run of loci train structure-codec.
        out: folder of the run: log, samples, checkpoint; at the end, the parts in final.
        minutes: of training, over all resumes.
        seed: of the weights and the batches.
        precision: what to multiply in; auto is bfloat16 where it is faster.
    """
    check_seed(seed)
    from loci.train.structure.flow import StructureTraining, train_structure
    from loci.train.trainer import TrainingBudget as Budget

    config = StructureTraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_structure(data, codec, out, config)


def latent_codec(
    data: Path, out: Path, minutes: float = 20.0, seed: int = 0, precision: Precision = "auto"
) -> None:
    """Train the autoencoder of what voxels hold, with its Gaussians and its mesh.

    Args:
        data: folder with the objects train and test, as made by loci data objects.
        out: folder of the run: log, samples, checkpoint; at the end, the three parts in final.
        minutes: of training, over all resumes.
        seed: of the weights and the batches.
        precision: what to multiply in; auto is bfloat16 where it is faster.
    """
    check_seed(seed)
    from loci.train.slat.vae import SlatVAETraining as SlatVAETraining
    from loci.train.slat.vae import train_slat_vae as train_slat_vae
    from loci.train.trainer import TrainingBudget as Budget

    config = SlatVAETraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_slat_vae(data, out, config)


def latents(
    data: Path,
    codec: Path,
    out: Path,
    minutes: float = 20.0,
    seed: int = 0,
    precision: Precision = "auto",
) -> None:
    """Train what makes the latents of an object's voxels from a picture.

    Args:
        data: folder with the objects train and test, as made by loci data objects.
        codec: the folder of a finished run of loci train latent-codec.
        out: folder of the run: log, samples, checkpoint; at the end, the parts in final.
        minutes: of training, over all resumes.
        seed: of the weights and the batches.
        precision: what to multiply in; auto is bfloat16 where it is faster.
    """
    check_seed(seed)
    from loci.train.slat.flow import SlatFlowTraining as SlatFlowTraining
    from loci.train.slat.flow import train_slat_flow as train_slat_flow
    from loci.train.trainer import TrainingBudget as Budget

    config = SlatFlowTraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_slat_flow(data, codec, out, config)
