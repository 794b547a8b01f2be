"""The published SAM 3D Objects checkpoints: found, read safely, loaded strictly, converted.

Parameters keep their published names, apart from a prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME, load_config, save_config
from loci.io.files import check_space
from loci.io.resumable import unfinished_folder
from loci.io.weights import (
    WEIGHTS_NAME,
    has_tensors,
    infos_of,
    load_strict,
    read_tensors,
)
from loci.objects.config import LIFTER_NAME, LifterConfig
from loci.objects.parts import (
    GAUSSIAN_DECODER,
    GAUSSIAN_DECODER_4,
    MESH_DECODER,
    PARTS,
    SLAT_FLOW,
    SLAT_FUSER,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    STRUCTURE_FUSER,
    PartConfigs,
    SavedParts,
)


class PublishedFile(NamedTuple):
    """The published file of a part, and the prefix of its tensor names."""

    stem: str
    prefix: str = ""


CONDITION, GENERATOR = (
    "_base_models.condition_embedder.",
    "_base_models.generator.reverse_fn.backbone.",
)
PUBLISHED_FILES: Mapping[str, PublishedFile] = {
    STRUCTURE_FUSER: PublishedFile("ss_generator", CONDITION),
    STRUCTURE_FLOW: PublishedFile("ss_generator", GENERATOR),
    STRUCTURE_DECODER: PublishedFile("ss_decoder"),
    SLAT_FUSER: PublishedFile("slat_generator", CONDITION),
    SLAT_FLOW: PublishedFile("slat_generator", GENERATOR),
    GAUSSIAN_DECODER: PublishedFile("slat_decoder_gs"),
    MESH_DECODER: PublishedFile("slat_decoder_mesh"),
    GAUSSIAN_DECODER_4: PublishedFile("slat_decoder_gs_4"),
}
SIZES_NAME = "loci-sizes.json"
"""Sizes of the parts where they are not the published ones, in a copy of the published layout."""
ORIGIN = (
    "they are published at huggingface.co/facebook/sam-3d-objects (gated: accept the SAM License "
    "there, then `hf download`)"
)
SUFFIXES = (".safetensors", ".ckpt", ".pt")
"""In order of preference: files that need no unpickling first."""


@dataclass(frozen=True)
class Sam3dCheckpoint:
    """A folder of published checkpoints. `configs` are the sizes; tests use smaller ones."""

    folder: Path
    configs: PartConfigs = field(default_factory=PartConfigs)

    @classmethod
    def find(cls, source: Path | str) -> Sam3dCheckpoint | None:
        """The checkpoints in a folder or in the folder `checkpoints` in it; None if there are none.

        Raises:
            LociError: naming the files that are missing when some are there.
        """
        for folder in (Path(source), Path(source) / "checkpoints"):
            stems = sorted({PUBLISHED_FILES[name].stem for name in PARTS})
            missing = [stem for stem in stems if _file(folder, stem) is None]
            if not missing:
                sizes = folder / SIZES_NAME
                return (
                    cls(folder, load_config(sizes, PartConfigs)) if sizes.is_file() else cls(folder)
                )
            if len(missing) < len(stems):
                raise LociError(
                    f"{folder}: missing {', '.join(f'{stem}.ckpt' for stem in missing)}, expected "
                    f"all published checkpoints; {ORIGIN}. Nothing is downloaded by itself"
                )
        return None

    def has(self, name: str) -> bool:
        return _file(self.folder, PUBLISHED_FILES[name].stem) is not None

    def path(self, name: str) -> Path:
        """The file of a part. Raises LociError where there is none."""
        stem = PUBLISHED_FILES[name].stem
        path = _file(self.folder, stem)
        if path is None:
            raise LociError(f"{self.folder}: missing {stem}.ckpt, expected the {name}")
        return path

    def load(self, name: str) -> nn.Module:
        """A part, in the element type of its file; tensors with other prefixes are ignored.

        Raises:
            LociError: naming every missing, unexpected or misshapen tensor.
        """
        origin, path = PUBLISHED_FILES[name], self.path(name)
        tensors = read_tensors(path, origin.prefix)
        if not tensors:
            tensors = read_tensors(path)  # another model's, or another file: the check names it
        with torch.device("meta"):
            part = self.configs.build(name)
        load_strict(part, tensors, f"{path} ({name})")
        return part.eval()


def sam3d_configs(folder: Path) -> PartConfigs | None:
    """Sizes of the published parts, or of what `convert` made of them; None for another model.
    Reads no weights. Raises LociError as `Sam3dCheckpoint.find`."""
    if not (folder / LIFTER_NAME).is_file():
        published = Sam3dCheckpoint.find(folder)
        return None if published is None else published.configs
    path, saved = folder / STRUCTURE_FLOW / CONFIG_NAME, SavedParts(folder)
    flows = {
        name: load_config(saved.path(name) / CONFIG_NAME, type(getattr(PartConfigs(), name)))
        for name in (STRUCTURE_FLOW, SLAT_FLOW)
        if path.is_file()
    }
    return PartConfigs(**flows) if flows else None


def convert(
    parts: Sam3dCheckpoint,
    out: Path,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> None:
    """Checks every published tensor, and writes a model folder, whole or not at all.

    Names, shapes and types are checked before anything is written; the numbers tensor by tensor
    while they are written, so that memory holds one tensor at a time. Run again after it was
    stopped or killed, it goes on with the files that were finished.

    Args:
        parts: the published checkpoints.
        out: the folder to write.
        progress: called with the bytes written since the last call, and those in all.

    Raises:
        LociError: naming every tensor that does not fit, or when `out` exists.
    """
    optional = (GAUSSIAN_DECODER_4,) if parts.has(GAUSSIAN_DECODER_4) else ()
    with unfinished_folder(out) as unfinished:
        draft = unfinished.folder
        loaded = {name: parts.load(name) for name in (*PARTS, *optional)}
        tensors = {name: part.state_dict() for name, part in loaded.items()}
        total = sum(info.bytes for some in tensors.values() for info in infos_of(some).values())
        check_space(out, total)
        for name, some in tensors.items():
            save_config(draft / name / CONFIG_NAME, getattr(parts.configs, name))
            unfinished.write(
                *(Path(name, WEIGHTS_NAME), some, parts.path(name)),
                lambda count: progress(count, total),
            )
        save_config(draft / LIFTER_NAME, LifterConfig())


def _file(folder: Path, stem: str) -> Path | None:
    paths = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if has_tensors(path)), None)
