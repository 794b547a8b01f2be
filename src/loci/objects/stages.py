"""Parts brought in when a stage needs them and let go of when it has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import nn

from loci.objects.costs import StageCost, measured
from loci.objects.parts import Parts

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass
class Stages:
    """Parts on their device, one at a time unless they are kept.

    Attributes:
        parts: where they come from.
        device: where to compute.
        dtype: type of the weights; float32 or bfloat16.
        keep: whether a part stays in memory after its stage, for the next run.
    """

    parts: Parts
    device: torch.device
    dtype: torch.dtype = torch.float32
    keep: bool = False
    _kept: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the parts in memory between runs."""
        return tuple(self._kept)

    @contextmanager
    def use(self, name: str, kind: type[ModuleT], costs: list[StageCost]) -> Iterator[ModuleT]:
        """The part for the time of the block, whose cost (loading included) is added to `costs`.

        Do not hold on to the part: its memory is given back when nothing refers to it any more.
        """
        with measured(name, self.device, costs):
            part = self._kept.get(name)
            if part is None:
                part = self.parts.load(name).to(self.device, self.dtype)
            if self.keep:
                self._kept[name] = part
            yield cast(ModuleT, part)
        del part
        if self.device.type == "cuda" and not self.keep:
            torch.cuda.empty_cache()

    def free(self) -> None:
        """Lets go of the parts that were kept."""
        self._kept.clear()
