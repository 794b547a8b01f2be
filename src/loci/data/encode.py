"""`loci data encode`: the latents that training takes, made before it, by many processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16

from loci.codecs.frame import FrameCodec
from loci.data.latents import encode_walk, fill_cache
from loci.data.recordings import META, Recordings, load_recordings
from loci.data.workers import ENDED, finished, finished_on_ray
from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME
from loci.io.models import find_model, pretrained_folder

SETS = ("train", "test")


class Walk(NamedTuple):
    """A walk of recordings, and the codec to encode it with."""

    data: Path
    codec: Path
    number: int


def encode(
    data: Path = Path("labels"),
    codec: Path | None = None,
    cache: Path = Path("runs/latents"),
    workers: int = os.cpu_count() or 1,
    ray: str | None = None,
) -> None:
    """Encode recordings for loci train world, which otherwise does so itself on one core.

    The same command goes on after a stop: walks that are encoded are skipped.

    Args:
        data: the recordings, a folder with `train` and `test`.
        codec: the trained codec, a folder or hub id; by default that of doom.
        cache: where training looks for latents: the folder `latents` beside its own.
        workers: how many processes.
        ray: encode on a Ray cluster, in place of `workers`: HOST:PORT of it, "auto" for the one
            that this machine is part of, or "local". All its machines need DATA and the codec
            under the same paths.
    """
    if not 1 <= workers <= 1024:
        raise LociError(f"--workers: {workers}, expected 1 to 1024")
    sets = [data / name for name in SETS if (data / name / META).exists()]
    if not sets:
        raise LociError(f"{data}: neither train nor test in it, expected labels or recordings")
    own = find_model("doom", CONFIG_NAME) / "codec"
    folder = own if codec is None else pretrained_folder(codec)
    model = FrameCodec.from_pretrained(folder)
    frames = lost = 0
    for part in sets:
        recordings = load_recordings(part)
        count = len(recordings.frames)

        def spread(missing: Sequence[int], part: Path = part) -> Iterator[tuple[int, np.ndarray]]:
            nonlocal frames, lost
            jobs = [Walk(part.resolve(), folder.resolve(), number) for number in missing]
            for job, latents in _encoded(jobs, workers, ray):
                if latents is None:
                    lost += 1
                    continue
                frames += len(latents)
                yield job.number, latents

        fill_cache(recordings, model, cache, count, spread)
    if lost:
        raise LociError(f"{lost} walks: {ENDED}; the same command goes on")
    print(f"{cache}: {frames} frames encoded" if frames else f"{cache}: all encoded already")


def _encoded(
    jobs: Sequence[Walk], workers: int, ray: str | None
) -> Iterator[tuple[Walk, np.ndarray | None]]:
    from tqdm import tqdm

    done = finished(jobs, encoded, workers) if ray is None else finished_on_ray(jobs, encoded, ray)
    yield from tqdm(done, total=len(jobs), unit="walk", disable=None)


def encoded(job: Walk) -> Float16[np.ndarray, "t c h w"]:
    """The latents of one walk, in a process of its own: on one core."""
    torch.set_num_threads(1)
    return encode_walk(*_opened(job.data, job.codec), job.number)


@lru_cache(maxsize=2)
def _opened(data: Path, codec: Path) -> tuple[Recordings, FrameCodec]:
    return load_recordings(data), FrameCodec.from_pretrained(codec)
