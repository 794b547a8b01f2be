"""The networks of a lifter by name: how each is made, saved and loaded, one at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from loci.errors import LociError
from loci.io.config import CONFIG_NAME
from loci.io.weights import WEIGHTS_NAME
from loci.objects.models.condition import EmbedderFuser, FuserConfig, PointmapEmbedderConfig
from loci.objects.models.dinov2 import DinoEmbedderConfig
from loci.objects.models.slat_decoders import (
    GaussianDecoder,
    GaussianDecoderConfig,
    MeshDecoder,
    MeshDecoderConfig,
)
from loci.objects.models.slat_flow import SlatFlow, SlatFlowConfig
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoder, StructureDecoderConfig

STRUCTURE_FUSER, STRUCTURE_FLOW = "structure_fuser", "structure_flow"
STRUCTURE_DECODER = "structure_decoder"
LATENT_FUSER, LATENT_FLOW = "latent_fuser", "latent_flow"
GAUSSIAN_DECODER, MESH_DECODER = "gaussian_decoder", "mesh_decoder"
# In the order in which a run needs them.
PARTS = (
    STRUCTURE_FUSER,
    STRUCTURE_FLOW,
    STRUCTURE_DECODER,
    LATENT_FUSER,
    LATENT_FLOW,
    GAUSSIAN_DECODER,
    MESH_DECODER,
)
DECODERS = (GAUSSIAN_DECODER, MESH_DECODER)
"""Either may be absent, not both."""
GAUSSIAN_DECODER_4 = "gaussian_decoder_4"
"""Runs in the place of the other where it is there and asked for: fewer Gaussians to a voxel."""
GAUSSIAN_DECODERS = (GAUSSIAN_DECODER, GAUSSIAN_DECODER_4)
ALL_DECODERS = (*GAUSSIAN_DECODERS, MESH_DECODER)


def _released_structure_fuser() -> FuserConfig:
    return FuserConfig(DinoEmbedderConfig(), pointmap=PointmapEmbedderConfig())


@dataclass(frozen=True)
class PartConfigs:
    """Sizes of every part. The defaults are the released model (SAM 3D Objects, 14); a model may
    have no `gaussian_decoder_4`."""

    structure_fuser: FuserConfig = field(default_factory=_released_structure_fuser)
    structure_flow: StructureFlowConfig = field(default_factory=StructureFlowConfig)
    structure_decoder: StructureDecoderConfig = field(default_factory=StructureDecoderConfig)
    latent_fuser: FuserConfig = field(default_factory=FuserConfig)
    latent_flow: SlatFlowConfig = field(default_factory=SlatFlowConfig)
    gaussian_decoder: GaussianDecoderConfig = field(default_factory=GaussianDecoderConfig)
    mesh_decoder: MeshDecoderConfig = field(default_factory=MeshDecoderConfig)
    gaussian_decoder_4: GaussianDecoderConfig | None = GaussianDecoderConfig(gaussians=4)

    def build(self, name: str) -> nn.Module:
        """A fresh part, on the device that torch is told to make tensors on."""
        return _BUILDERS[name](getattr(self, name))


class Parts(Protocol):
    """Where parts come from. Nothing is kept: every `load` reads the weights again."""

    def load(self, name: str) -> nn.Module:
        """A part by its name, in the type it was saved in, in evaluation mode.

        Raises:
            LociError: naming every missing, unexpected or misshapen tensor.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether a part is there; what its tensors are is only known when it is loaded."""
        ...


@dataclass(frozen=True)
class SavedParts:
    """A folder with a folder for each part."""

    folder: Path

    def has(self, name: str) -> bool:
        files = (CONFIG_NAME, WEIGHTS_NAME)
        return all((self.folder / name / file).is_file() for file in files)

    def check(self, names: tuple[str, ...]) -> None:
        """Raises LociError naming the parts that are not there."""
        absent = [name for name in names if not self.has(name)]
        if absent:
            raise LociError(
                f"{self.folder}: missing {', '.join(absent)}, expected for each a folder with "
                f"{CONFIG_NAME} and {WEIGHTS_NAME}"
            )

    def load(self, name: str) -> nn.Module:
        return _CLASSES[name].from_pretrained(self.folder / name)


@dataclass(frozen=True)
class GivenParts:
    """Modules that are there already, as after training; a run moves them to its device and type,
    and puts them in evaluation mode."""

    modules: Mapping[str, nn.Module]

    def load(self, name: str) -> nn.Module:
        return self.modules[name].eval()

    def has(self, name: str) -> bool:
        return name in self.modules


def save_parts(
    folder: Path, parts: Parts, names: tuple[str, ...], dtype: torch.dtype | None = None
) -> None:
    """Writes one part after the other, and the second Gaussian decoder where there is one,
    floating weights as `dtype` if given."""
    further = (GAUSSIAN_DECODER_4,) if parts.has(GAUSSIAN_DECODER_4) else ()
    for name in dict.fromkeys((*names, *further)):
        cast(Any, parts.load(name)).save_pretrained(folder / name, dtype)


_CLASSES: Mapping[str, Any] = {
    STRUCTURE_FUSER: EmbedderFuser,
    STRUCTURE_FLOW: StructureFlow,
    STRUCTURE_DECODER: StructureDecoder,
    LATENT_FUSER: EmbedderFuser,
    LATENT_FLOW: SlatFlow,
    GAUSSIAN_DECODER: GaussianDecoder,
    MESH_DECODER: MeshDecoder,
    GAUSSIAN_DECODER_4: GaussianDecoder,
}
_BUILDERS: Mapping[str, Callable[[Any], nn.Module]] = {
    name: kind.of if kind is EmbedderFuser else kind for name, kind in _CLASSES.items()
}
