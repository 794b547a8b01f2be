"""The command `loci convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from loci.errors import LociError
from loci.io.files import check_folder_writable


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
) -> None:
    """Turn published weights into safetensors.

    Checks the name, shape, type and numbers of every tensor, and writes a folder that --model
    takes, whole or not at all. Needs the memory of one tensor. Stopped or killed, it goes on with
    the files that were finished when it is run again. Nothing is downloaded.

    Args:
        source: the published folder of Infinite-World, or its transformer's file, or the published
            folder of SAM 3D Objects.
        out: the model folder to write.
    """
    if not source.exists():
        raise LociError(f"{source}: no such folder or file, expected published checkpoints")
    check_folder_writable(out)

    from tqdm import tqdm

    from loci.objects import published_files as objects
    from loci.world import published_files as world

    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, delay=1e-3) as bar:

        def show(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        if (parts := objects.Sam3dCheckpoint.find(source)) is not None:
            objects.convert(parts, out, show)
        else:
            world.convert(source, out, show)
    print(f"{out}: every tensor checked and written; use it with --model {out}")
