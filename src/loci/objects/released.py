"""The published SAM 3D Objects files (section 14): found, read safely, loaded strictly, converted.

Networks keep their published names, so that a prefix is all that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from loci.errors import LociError
from loci.io.config import save_config
from loci.io.files import replacing_folder
from loci.io.weights import load_strict, read_tensors
from loci.objects.parts import (
    GAUSSIAN_DECODER,
    GAUSSIAN_DECODER_4,
    LATENT_FLOW,
    LATENT_FUSER,
    MESH_DECODER,
    PARTS,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    STRUCTURE_FUSER,
    PartConfigs,
    save_parts,
)
from loci.objects.presets import LIFTER_NAME, LifterConfig


class Origin(NamedTuple):
    """The published file that holds a part, and what its tensors' names begin with there."""

    stem: str
    prefix: str = ""


CONDITION, GENERATOR = (
    "_base_models.condition_embedder.",
    "_base_models.generator.reverse_fn.backbone.",
)
ORIGINS: Mapping[str, Origin] = {
    STRUCTURE_FUSER: Origin("ss_generator", CONDITION),
    STRUCTURE_FLOW: Origin("ss_generator", GENERATOR),
    STRUCTURE_DECODER: Origin("ss_decoder"),
    LATENT_FUSER: Origin("slat_generator", CONDITION),
    LATENT_FLOW: Origin("slat_generator", GENERATOR),
    GAUSSIAN_DECODER: Origin("slat_decoder_gs"),
    MESH_DECODER: Origin("slat_decoder_mesh"),
    GAUSSIAN_DECODER_4: Origin("slat_decoder_gs_4"),
}
SUFFIXES = (".safetensors", ".ckpt", ".pt")
"""In the order of preference: what can be read without unpickling first."""


@dataclass(frozen=True)
class ReleasedParts:
    """A folder of published checkpoints.

    `configs` are the released sizes; smaller ones serve tests.
    """

    folder: Path
    configs: PartConfigs = field(default_factory=PartConfigs)

    @classmethod
    def find(cls, source: Path | str) -> ReleasedParts | None:
        """The checkpoints in a folder or in the folder `checkpoints` in it; None if there are none.

        Raises:
            LociError: naming the files that are missing when some are there.
        """
        for folder in (Path(source), Path(source) / "checkpoints"):
            stems = sorted({ORIGINS[name].stem for name in PARTS})
            missing = [stem for stem in stems if _file(folder, stem) is None]
            if not missing:
                return cls(folder)
            if len(missing) < len(stems):
                raise LociError(
                    f"{folder}: missing {', '.join(f'{stem}.ckpt' for stem in missing)}, expected "
                    "all published checkpoints"
                )
        return None

    def has(self, name: str) -> bool:
        return _file(self.folder, ORIGINS[name].stem) is not None

    def load(self, name: str) -> nn.Module:
        """A part in the type it was published in; of its file, what has another prefix is ignored.

        Raises:
            LociError: naming every missing, unexpected or misshapen tensor.
        """
        origin = ORIGINS[name]
        path = _file(self.folder, origin.stem)
        if path is None:
            raise LociError(f"{self.folder}: missing {origin.stem}.ckpt, expected the {name}")
        tensors = read_tensors(path, origin.prefix)
        with torch.device("meta"):
            part = self.configs.build(name)
        load_strict(part, tensors, f"{path} ({name})")
        return part.eval()


def convert(parts: ReleasedParts, out: Path) -> None:
    """Checks the name and shape of every published tensor, and writes a model folder, all or
    nothing.

    Raises:
        LociError: naming every tensor that does not fit, or when `out` is there already.
    """
    config = LifterConfig()
    with replacing_folder(out) as draft:
        save_parts(draft, parts, config.parts)
        save_config(draft / LIFTER_NAME, config)


def _file(folder: Path, stem: str) -> Path | None:
    paths = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)
