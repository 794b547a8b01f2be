"""From training runs to a model folder: bfloat16 weights, configs, logs and curves."""

import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from loci.codecs.frame import FrameCodec
from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME, load_config, save_config
from loci.io.files import replacing, replacing_folder
from loci.io.weights import WEIGHTS_NAME
from loci.train.plots import draw_panels
from loci.world.config import WorldConfig, doom_world
from loci.world.transformer import WorldTransformer
from loci.world.world import SAVED, World

SETTINGS, EXAMPLE, CARD, CODEC = "world.json", "example.png", "README.md", "codec"
EXAMPLE_PIXELS = 384
REPLACEABLE = {*SAVED, EXAMPLE, CARD}
"""What an older model folder holds and may be replaced."""


def save_settings(
    folder: Path, world: WorldConfig, frame: UInt8[np.ndarray, "h w 3"] | None
) -> None:
    """Write beside a trained transformer how it is walked, and a frame to begin with, enlarged."""
    save_config(folder / SETTINGS, world)
    if frame is None:
        return
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frame))
    times = max(1, EXAMPLE_PIXELS // max(picture.size))
    picture = picture.resize([times * side for side in picture.size], Image.Resampling.NEAREST)
    with replacing(folder / EXAMPLE) as draft:
        picture.save(draft, format="PNG")


def export_world(
    codec: Path | None,
    world: Path,
    out: Path,
    average_with: Path | None = None,
    average_share: float = 0.5,
) -> None:
    """Write one model folder that loci walk can load, all or nothing, and print what it weighs.

    Args:
        codec: the folder of a finished run of loci train codec; without it, the codec that the
            world was trained with.
        world: the folder of a finished run of loci train world; or a model folder, of which all but
            the codec's weights is kept.
        out: the folder; an older model in it is replaced, except for its card and, where the run
            has none, its example picture.
        average_with: a model folder whose transformer's weights are averaged with the run's: a
            finetuned model keeps more of what the model it began with could do.
        average_share: the run's share of that average, from 0 to 1.

    Raises:
        LociError: when a run is not finished, the folder holds anything else, or the model to
            average with has another configuration.
    """
    if not 0 <= average_share <= 1:
        raise LociError(f"--average-share: {average_share}, expected a share from 0 to 1")
    if (world / CONFIG_NAME).is_file():
        _with_codec(world, codec, out, average_with)
        return
    final = world / "final"
    logged = [(world, "transformer")] + ([] if codec is None else [(codec, CODEC)])
    for run, _ in logged:
        if not (run / "final").is_dir():
            raise LociError(f"{run}: expected a finished training run, with its model in final")
    codec_folder = final / CODEC if codec is None else codec / "final"
    if not codec_folder.is_dir():
        raise LociError(f"{world}: a run of before, without its codec; expected --codec as well")
    # Runs of before have no settings: they are all of Doom.
    settings = doom_world()
    if (final / SETTINGS).is_file():
        settings = load_config(final / SETTINGS, WorldConfig)
    transformer = WorldTransformer.from_pretrained(final)
    if average_with is not None:
        _average(transformer, average_with, average_share)
    parts = transformer, FrameCodec.from_pretrained(codec_folder)
    with replacing_folder(out, REPLACEABLE.__contains__) as draft:
        World(settings, *parts).save_pretrained(draft, torch.bfloat16)
        for run, name in logged:
            shutil.copyfile(run / "log.jsonl", draft / name / "log.jsonl")
            draw_panels(run / "log.jsonl", draft / name / "curves.png")
        for sources, name in (((final, out), EXAMPLE), ((out,), CARD)):
            source = next((s / name for s in sources if (s / name).is_file()), None)
            if source is not None:
                shutil.copyfile(source, draft / name)
    print(f"{out}: {_megabytes(out):.1f} MB of weights")


def _with_codec(model: Path, codec: Path | None, out: Path, average_with: Path | None) -> None:
    """A model with the codec of a run of loci train codec or decoder, whose log lies beside it."""
    if codec is None or average_with is not None:
        raise LociError(f"{model}: a model, not a run; expected --codec and no --average-with")
    if not (codec / "final").is_dir():
        raise LociError(f"{codec}: expected a finished training run, with its model in final")
    world = World.from_pretrained(model)
    world = World(world.config, world.transformer, FrameCodec.from_pretrained(codec / "final"))
    kept = [path for path in model.rglob("*") if path.is_file() and path.name != WEIGHTS_NAME]
    with replacing_folder(out, REPLACEABLE.__contains__) as draft:
        world.save_pretrained(draft, torch.bfloat16)
        for path in kept:
            if not (draft / path.relative_to(model)).exists():
                shutil.copyfile(path, draft / path.relative_to(model))
        shutil.copyfile(codec / "log.jsonl", draft / CODEC / "finetune.jsonl")
    print(f"{out}: {_megabytes(out):.1f} MB of weights")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6


@torch.no_grad()
def _average(transformer: WorldTransformer, folder: Path, share: float) -> None:
    other = WorldTransformer.from_pretrained(folder / "transformer").float()
    if other.config != transformer.config:
        raise LociError(f"{folder}: another configuration than the run's, cannot be averaged")
    weights = other.state_dict()
    for name, weight in transformer.float().state_dict().items():
        weight.copy_(weights[name].lerp(weight, share))
