"""The command `loci convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


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
