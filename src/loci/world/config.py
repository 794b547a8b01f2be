"""How a world is walked."""

from dataclasses import dataclass, field
from typing import Literal

from loci.actions.reckoning import Stride
from loci.memory.compressor import WindowPlan
from loci.memory.hierarchy import HierarchyConfig
from loci.memory.horizon import HorizonConfig
from loci.world.rollout import SamplingConfig


def _released_horizon() -> HorizonConfig:
    """The published memory while its windows touch, then windows of the same size."""
    exact = WindowPlan()
    return HorizonConfig(HierarchyConfig(window=exact.window), exact)


@dataclass(frozen=True)
class WorldConfig:
    """How a world is walked. The defaults are those of the released model.

    `size` is height and width of the frames, None to choose the released bucket nearest to the
    picture's shape. A chunk makes `chunk` new frames; with `overlap` it makes the newest frame
    again as its first latent, which is thrown away. With `reencode` the history holds what the
    codec sees in the decoded frames, otherwise the sampled latents. With `lag` the memory holds
    everything before the local frame, otherwise that frame as well. `moves` and `views` list the
    action ids the model was trained on; all of the vocabulary if empty.
    """

    size: tuple[int, int] | None = None
    fps: int = 30
    chunk: int = 80
    overlap: bool = True
    reencode: bool = True
    lag: bool = False
    codec: Literal["frame", "wan"] = "wan"
    text: bool = True
    moves: tuple[int, ...] = ()
    views: tuple[int, ...] = ()
    stride: Stride | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    horizon: HorizonConfig = field(default_factory=_released_horizon)
