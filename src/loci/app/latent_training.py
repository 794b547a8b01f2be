"""The commands that train stage 2 of a model that lifts objects.

They follow the recipe of the shipped model `home` and go on where they were stopped. Other sizes
and recipes are set in Python.
"""

from __future__ import annotations

from pathlib import Path

from loci.errors import check_seed
from loci.train.precision import Precision


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
    from loci.train.latent_codec import LatentCodecTraining, train_latent_codec
    from loci.train.run import Budget

    config = LatentCodecTraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_latent_codec(data, out, config)


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
    from loci.train.latent_flow import LatentFlowTraining, train_latent_flow
    from loci.train.run import Budget

    config = LatentFlowTraining(budget=Budget(minutes=minutes), seed=seed, precision=precision)
    train_latent_flow(data, codec, out, config)
