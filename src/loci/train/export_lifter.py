"""From the four training runs of objects to a model folder: weights, logs, card, example."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

import torch
from torch import nn

from loci.acceleration.calibration import CALIBRATION_NAME
from loci.data.objects.dataset import ObjectRecord, ObjectSet, training_folders
from loci.data.objects.splits import credits_text
from loci.errors import LociError
from loci.io.config_files import load_config
from loci.io.files import replacing, replacing_folder
from loci.objects.config import LIFTER_NAME, LifterConfig, home
from loci.objects.lifter import Lifter
from loci.objects.models.condition import EmbedderFuser
from loci.objects.models.slat_flow import SlatStatistics
from loci.objects.parts import (
    FORMER_PARTS,
    GAUSSIAN_DECODER,
    MESH_DECODER,
    PARTS,
    SLAT_FLOW,
    SLAT_FUSER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    STRUCTURE_FUSER,
    LoadedParts,
    SavedParts,
)
from loci.train.plots import draw_panels
from loci.train.slat.flow import STATISTICS_NAME

EXAMPLE, MASK = "example.png", "example_mask.png"
CARD, CREDITS, TRAINING = "README.md", "CREDITS.md", "training"
REPLACEABLE = {*PARTS, LIFTER_NAME, CALIBRATION_NAME, CARD, CREDITS, TRAINING, EXAMPLE, MASK}
"""What an older model folder holds and may be replaced; its calibration was measured on its
weights."""
TEMPLATE = "lifter_card.md"
PREFERRED = ("blend-swap-cc-0-winchestersofa", 3)
"""Name and view of the held-out object that is shown if it is there: dedicated to the public."""
PUBLIC_DOMAIN = "CC0-1.0"
BACKGROUND = (196, 200, 206)


def write_example(objects: ObjectSet, folder: Path) -> ObjectRecord:
    """Write `example.png` and `example_mask.png`, and return the object that they show: the
    preferred one, the first in the public domain, or the first of all."""
    number, view = choose_example(objects)
    shown = objects.view(number, view, BACKGROUND)
    for name, pixels in ((EXAMPLE, shown.image), (MASK, shown.mask)):
        _save(folder / name, pixels.numpy())
    return objects.records[number]


def choose_example(objects: ObjectSet) -> tuple[int, int]:
    """Number and view of the example."""
    names = [record.name for record in objects.records]
    if PREFERRED[0] in names:
        return names.index(PREFERRED[0]), min(PREFERRED[1], objects.views - 1)
    free = (n for n, record in enumerate(objects.records) if record.licence == PUBLIC_DOMAIN)
    return next(free, 0), 0


def _save(path: Path, pixels) -> None:
    from PIL import Image

    with replacing(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")


class Runs(NamedTuple):
    """The folders of the four finished runs, in the order in which they are trained.

    In place of a run there may be a model folder, whose parts and logs are kept.
    """

    structure_vae: Path
    structure: Path
    slat_vae: Path
    slat: Path

    def sources(self) -> dict[str, Path]:
        """Where each part of the model is taken from."""
        return {
            STRUCTURE_FUSER: self.structure,
            STRUCTURE_FLOW: self.structure,
            STRUCTURE_DECODER: self.structure_vae,
            SLAT_FUSER: self.slat,
            SLAT_FLOW: self.slat,
            GAUSSIAN_DECODER: self.slat_vae,
            MESH_DECODER: self.slat_vae,
        }


def export_lifter(runs: Runs, data: Path, out: Path) -> Lifter:
    """Write one model folder, all or nothing, and print what it weighs.

    Args:
        runs: finished runs, each with its parts in final; or a model folder, to keep its parts.
        data: the objects of the runs: licences and the example picture come from there.
        out: the folder; an older model in it is replaced.

    Returns:
        What was written, as a lifter.

    Raises:
        LociError: when a run is not finished, does not fit the others, or the data is not there.
    """
    for run in runs:
        if not ((run / "final").is_dir() or is_model(run)):
            raise LociError(f"{run}: expected a finished training run, with its model in final")
    modules = {name: SavedParts(parts(run)).load(name) for name, run in runs.sources().items()}
    _check_same_codec(runs, modules[STRUCTURE_DECODER])
    lifter = Lifter(lifter_config(runs, modules), LoadedParts(modules))
    train, test = (ObjectSet.load(data / part) for part in ("train", "test"))
    with replacing_folder(out, {*REPLACEABLE, *FORMER_PARTS.values()}.__contains__) as draft:
        lifter.save_pretrained(draft, torch.bfloat16)
        for name, run in zip(Runs._fields, runs, strict=True):
            logs = draft / TRAINING / name.replace("_", "-")
            logs.mkdir(parents=True)
            shutil.copyfile(log(name, run), logs / "log.jsonl")
            draw_panels(log(name, run), logs / "curves.png")
        shown = write_example(test, draft)
        (draft / CREDITS).write_text(credits_text(train.records, test.records), encoding="utf-8")
        made = sum(len(ObjectSet.load(folder)) for folder in training_folders(data)[1:])
        text = card(runs, modules, (train, test), made, shown)
        (draft / CARD).write_text(text, encoding="utf-8")
        size = sum(path.stat().st_size for path in draft.rglob("*.safetensors"))
        whole = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB of weights, {whole / 1e6:.1f} MB in all")
    return Lifter.from_pretrained(out)


def is_model(folder: Path) -> bool:
    """Whether this is a model folder and not a run."""
    return (folder / LIFTER_NAME).is_file()


def parts(run: Path) -> Path:
    """Where a run or a model folder has its parts."""
    return run if is_model(run) else run / "final"


def log(name: str, run: Path) -> Path:
    """The log of a run, or of the training of that name in a model folder."""
    folder = run / TRAINING / name.replace("_", "-") if is_model(run) else run
    return folder / "log.jsonl"


def lifter_config(runs: Runs, modules: Mapping[str, nn.Module]) -> LifterConfig:
    """The settings of `home` with the fusers' picture size and the statistics of the latents.

    Raises:
        LociError: when the fusers take pictures of different sizes.
    """
    settings, size = home().lifter, _input_size(modules[STRUCTURE_FUSER])
    if _input_size(modules[SLAT_FUSER]) != size:
        raise LociError(
            f"{runs.slat}: trained on pictures of {_input_size(modules[SLAT_FUSER])} pixels, "
            f"expected {size} as {runs.structure}"
        )
    if is_model(runs.slat):
        statistics = load_config(runs.slat / LIFTER_NAME, LifterConfig).slat.statistics
    else:
        statistics = load_config(runs.slat / "final" / STATISTICS_NAME, SlatStatistics)
    return replace(
        settings,
        input_size=size,
        slat=replace(settings.slat, statistics=statistics),
    )


def _input_size(fuser: nn.Module) -> int:
    assert isinstance(fuser, EmbedderFuser)
    assert fuser.config is not None
    return fuser.config.picture.input_size


def card(
    runs: Runs,
    modules: Mapping[str, nn.Module],
    objects: tuple[ObjectSet, ObjectSet],
    made: int,
    shown: ObjectRecord,
) -> str:
    """The model card: the template beside this file, with what can be counted filled in.

    Args:
        runs: whose logs tell how long was trained.
        modules: the parts by name.
        objects: to train on, and held out.
        made: how many objects to train on were made besides.
        shown: the object in the example picture.
    """
    train, test = objects
    counts = {name: sum(p.numel() for p in modules[name].parameters()) for name in PARTS}
    template = Template((files("loci.train") / TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        parts=_table("part", "parameters", {k: f"{n / 1e6:.2f} M" for k, n in counts.items()}),
        parameters=f"{sum(counts.values()) / 1e6:.1f}",
        times=_table(
            "run", "trained", {n: _trained(log(n, run)) for n, run in runs._asdict().items()}
        ),
        licences=credits_text(train.records, test.records).split("\n\n")[0],
        train=len(train),
        more=made,
        test=len(test),
        example=f"“{shown.title}” by {shown.author} ({shown.licence})",
    )


def _table(first: str, second: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {first} | {second} |", "| --- | --- |"]
    return "\n".join(lines + [f"| `{name}` | {value} |" for name, value in rows.items()])


def _trained(file: Path) -> str:
    last = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
    return f"{last['step']} steps, {last['seconds'] / 60:.0f} minutes"


def _check_same_codec(runs: Runs, decoder: nn.Module) -> None:
    """The structure run keeps a copy of the decoder whose latents it learned."""
    copied = SavedParts(parts(runs.structure)).load(STRUCTURE_DECODER).state_dict()
    original = decoder.state_dict()
    same = copied.keys() == original.keys() and all(
        torch.equal(copied[name], original[name]) for name in original
    )
    if not same:
        raise LociError(
            f"{runs.structure}: trained with another decoder, expected that of {runs.structure_vae}"
        )
