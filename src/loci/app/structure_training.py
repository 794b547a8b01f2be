"""The commands that train stage 1 of a model that lifts objects.

They follow the recipe of the shipped model `home`, go on where they were stopped, and run
unchanged under `accelerate launch -m loci.cli train ...`. Other sizes and recipes are set in
Python.
"""

from __future__ import annotations

from pathlib import Path

from loci.errors import check_seed
from loci.train.precision import Precision


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
    from loci.train.run import Budget
    from loci.train.structure_codec import StructureCodecTraining, train_structure_codec

    config = StructureCodecTraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_structure_codec(data, out, config)


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
    from loci.train.run import Budget
    from loci.train.structure_flow import StructureTraining, train_structure

    config = StructureTraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_structure(data, codec, out, config)
