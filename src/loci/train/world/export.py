"""From training runs to a model folder: bfloat16 weights, configs, logs and curves."""

import shutil
from pathlib import Path

import torch

from loci.codecs.frame import FrameCodec
from loci.errors import LociError
from loci.io.files import replacing, replacing_folder
from loci.train.plots import draw_panels
from loci.world.config import doom_world
from loci.world.transformer import WorldTransformer
from loci.world.world import SAVED, World

EXAMPLE_MAP = (5, 104)
"""Seed and episode of the held-out map whose first view is the example picture."""
EXAMPLE_PIXELS = 384
EXAMPLE, CARD = "example.png", "README.md"
OURS = {*SAVED, EXAMPLE, CARD}
"""What an older model folder holds and may be replaced."""


def export_world(codec: Path, world: Path, out: Path) -> None:
    """Write one model folder that loci walk can load, all or nothing, and print what it weighs.

    Args:
        codec: the folder of a finished run of loci train codec.
        world: the folder of a finished run of loci train world.
        out: the folder; an older model in it is replaced, except for its card.

    Raises:
        LociError: when a run is not finished, or the folder holds anything else.
    """
    for run in (codec, world):
        if not (run / "final").is_dir():
            raise LociError(f"{run}: expected a finished training run, with its model in final")
    parts = (
        WorldTransformer.from_pretrained(world / "final"),
        FrameCodec.from_pretrained(codec / "final"),
    )
    with replacing_folder(out, OURS.__contains__) as draft:
        World(doom_world(), *parts).save_pretrained(draft, torch.bfloat16)
        _example(draft / EXAMPLE)
        for run, name in ((codec, "codec"), (world, "transformer")):
            shutil.copyfile(run / "log.jsonl", draft / name / "log.jsonl")
            draw_panels(run / "log.jsonl", draft / name / "curves.png")
        if (out / CARD).is_file():
            shutil.copyfile(out / CARD, draft / CARD)
        size = sum(path.stat().st_size for path in draft.rglob("*.safetensors"))
    print(f"{out}: {size / 1e6:.1f} MB of weights")


def _example(image: Path) -> None:
    """The picture to walk into when none is given: a room of a held-out map, enlarged."""
    from PIL import Image

    from loci.data.record import map_seed
    from loci.envs.doom.engine import film
    from loci.envs.doom.walks import spin

    frames, _ = film(map_seed(*EXAMPLE_MAP, "test"), spin(1))
    picture = Image.fromarray(frames[0]).resize(
        (EXAMPLE_PIXELS, EXAMPLE_PIXELS), Image.Resampling.NEAREST
    )
    with replacing(image) as part:
        picture.save(part, format="PNG")
