"""The networks of a lifter by name: how each is built, saved, and loaded for its stage."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import nn

from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME
from loci.io.weights import WEIGHTS_NAME, has_tensors
from loci.nn.placement import WeightPlacement, place_weights
from loci.objects.costs import StageCost, measured
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
SLAT_FUSER, SLAT_FLOW = "slat_fuser", "slat_flow"
GAUSSIAN_DECODER, MESH_DECODER = "gaussian_decoder", "mesh_decoder"
# In the order of a run.
PARTS = (
    STRUCTURE_FUSER,
    STRUCTURE_FLOW,
    STRUCTURE_DECODER,
    SLAT_FUSER,
    SLAT_FLOW,
    GAUSSIAN_DECODER,
    MESH_DECODER,
)
FLOWS = (STRUCTURE_FLOW, SLAT_FLOW)
DECODERS = (GAUSSIAN_DECODER, MESH_DECODER)
"""A model has at least one of them."""
GAUSSIAN_DECODER_4 = "gaussian_decoder_4"
"""Replaces `gaussian_decoder` on request, if the model has it: fewer Gaussians per voxel."""
FORMER_PARTS = {SLAT_FUSER: "latent_fuser", SLAT_FLOW: "latent_flow"}
"""Folders of parts in models that were saved before they were renamed."""
GAUSSIAN_DECODERS = (GAUSSIAN_DECODER, GAUSSIAN_DECODER_4)
ALL_DECODERS = (*GAUSSIAN_DECODERS, MESH_DECODER)


def _published_structure_fuser() -> FuserConfig:
    return FuserConfig(DinoEmbedderConfig(), pointmap=PointmapEmbedderConfig())


@dataclass(frozen=True)
class PartConfigs:
    """Sizes of every part. The defaults are those of SAM 3D Objects as published; other models may
    lack `gaussian_decoder_4`."""

    FORMER_FIELDS: ClassVar[dict[str, str]] = {old: new for new, old in FORMER_PARTS.items()}

    structure_fuser: FuserConfig = field(default_factory=_published_structure_fuser)
    structure_flow: StructureFlowConfig = field(default_factory=StructureFlowConfig)
    structure_decoder: StructureDecoderConfig = field(default_factory=StructureDecoderConfig)
    slat_fuser: FuserConfig = field(default_factory=FuserConfig)
    slat_flow: SlatFlowConfig = field(default_factory=SlatFlowConfig)
    gaussian_decoder: GaussianDecoderConfig = field(default_factory=GaussianDecoderConfig)
    mesh_decoder: MeshDecoderConfig = field(default_factory=MeshDecoderConfig)
    gaussian_decoder_4: GaussianDecoderConfig | None = GaussianDecoderConfig(gaussians=4)

    def build(self, name: str) -> nn.Module:
        """A new part, on torch's default device."""
        return _BUILDERS[name](getattr(self, name))


class Parts(Protocol):
    """Where parts come from. Every `load` reads the weights again."""

    def load(self, name: str) -> nn.Module:
        """A part by name, in the element type it was saved in, in evaluation mode.

        Raises:
            LociError: naming every missing, unexpected or misshapen tensor.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether the files of a part exist; its tensors are checked when it is loaded."""
        ...


@dataclass(frozen=True)
class SavedParts:
    """A folder with a subfolder for each part."""

    folder: Path

    def has(self, name: str) -> bool:
        folder = self.path(name)
        return (folder / CONFIG_NAME).is_file() and has_tensors(folder / WEIGHTS_NAME)

    def path(self, name: str) -> Path:
        """The folder of a part, also by its former name."""
        former = self.folder / FORMER_PARTS.get(name, name)
        return former if former.is_dir() else self.folder / name

    def check(self, names: tuple[str, ...]) -> None:
        """Raises LociError naming the parts that are missing."""
        absent = [name for name in names if not self.has(name)]
        if absent:
            raise LociError(
                f"{self.folder}: missing {', '.join(absent)}, expected for each a folder with "
                f"{CONFIG_NAME} and {WEIGHTS_NAME}"
            )

    def load(self, name: str) -> nn.Module:
        return _CLASSES[name].from_pretrained(self.path(name))


@dataclass(frozen=True)
class LoadedParts:
    """Modules in memory, as after training. A run moves them to its device and element type, and
    puts them in evaluation mode."""

    modules: Mapping[str, nn.Module]

    def load(self, name: str) -> nn.Module:
        return self.modules[name].eval()

    def has(self, name: str) -> bool:
        return name in self.modules


ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass
class PartLoader:
    """Loads a part for its stage and frees it afterwards, so that memory holds one at a time.

    Attributes:
        parts: where they come from.
        device: where they compute.
        dtype: element type of the weights; float32 or bfloat16.
        keep: keep parts in memory for the next run.
        weights: where the blocks of the two flows are, by far the largest parts.
    """

    parts: Parts
    device: torch.device
    dtype: torch.dtype = torch.float32
    keep: bool = False
    weights: WeightPlacement = "resident"
    _loaded: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the parts that are kept in memory."""
        return tuple(self._loaded)

    @contextmanager
    def use(self, name: str, kind: type[ModuleT], costs: list[StageCost]) -> Iterator[ModuleT]:
        """The part, for the duration of the block. Its cost, loading included, goes to `costs`.

        Keep no reference to the part: its memory is freed when the last one is gone.
        """
        with measured(name, self.device, costs):
            part = self._loaded.get(name)
            if part is None:
                weights: WeightPlacement = self.weights if name in FLOWS else "resident"
                part = place_weights(self.parts.load(name), self.device, self.dtype, weights)
            if self.keep:
                self._loaded[name] = part
            yield cast(ModuleT, part)
        del part
        if self.device.type == "cuda" and not self.keep:
            torch.cuda.empty_cache()

    def free(self) -> None:
        """Removes all parts from memory."""
        self._loaded.clear()


def save_parts(
    folder: Path, parts: Parts, names: tuple[str, ...], dtype: torch.dtype | None = None
) -> None:
    """Writes the named parts, and `gaussian_decoder_4` if there is one, each in a subfolder.

    Floating-point weights are written as `dtype` if given.
    """
    optional = (GAUSSIAN_DECODER_4,) if parts.has(GAUSSIAN_DECODER_4) else ()
    for name in dict.fromkeys((*names, *optional)):
        cast(Any, parts.load(name)).save_pretrained(folder / name, dtype)


_CLASSES: Mapping[str, Any] = {
    STRUCTURE_FUSER: EmbedderFuser,
    STRUCTURE_FLOW: StructureFlow,
    STRUCTURE_DECODER: StructureDecoder,
    SLAT_FUSER: EmbedderFuser,
    SLAT_FLOW: SlatFlow,
    GAUSSIAN_DECODER: GaussianDecoder,
    MESH_DECODER: MeshDecoder,
    GAUSSIAN_DECODER_4: GaussianDecoder,
}
_BUILDERS: Mapping[str, Callable[[Any], nn.Module]] = {
    name: kind.from_config if kind is EmbedderFuser else kind for name, kind in _CLASSES.items()
}
