"""The memory (RAM) that a walk or a lift needs, told before weights are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loci.errors import LociError

if TYPE_CHECKING:
    import torch

    from loci.nn.placement import WeightPlacement

GB = 1e9
UNITS = {"": 1e9, "g": 1e9, "m": 1e6}
PROCESS = 0.6e9
"""Python, torch and what the commands hold besides."""


@dataclass(frozen=True)
class RamNeed:
    """Bytes that a run holds at its peak, by what holds them.

    Attributes:
        blocks: weights of the transformer's blocks, in the element type of the run.
        block: the largest of them; streaming holds three.
        rest: weights that are always in memory.
        work: activations, keys and values of a chunk, states.
    """

    blocks: float
    block: float
    rest: float
    work: float

    @property
    def is_large(self) -> bool:
        return self.blocks > 1e9

    def total(self, weights: WeightPlacement) -> float:
        share = {"resident": self.blocks, "int8": self.blocks / 2, "streamed": 3 * self.block}
        return PROCESS + share[weights] + self.rest + self.work

    def described(self, weights: WeightPlacement) -> str:
        """What is said before weights are read."""
        total = self.total(weights)
        held = total - PROCESS - self.work
        how = {"resident": "", "int8": ", int8", "streamed": ", blocks streamed from disk"}
        return (
            f"needs about {total / GB:.1f} GB of memory: weights {held / GB:.1f}{how[weights]}, "
            f"work {self.work / GB:.1f}, other {PROCESS / GB:.1f}"
        )


def parse_ram(text: str) -> float:
    """Bytes of "8GB", "800MB" or "8" (gigabytes).

    Raises:
        LociError: for anything else, or less than 100 MB.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([gm]?)i?b?", text.strip().lower())
    size = float(match[1]) * UNITS[match[2]] if match else 0
    if size < 1e8:
        raise LociError(f"--max-ram: {text}, expected a size such as 8GB or 800MB")
    return size


def choose_placement(
    need: RamNeed, memory: float | None, int8: bool, advice: str
) -> WeightPlacement:
    """Where the weights of blocks go: in memory if they fit, else streamed from disk.

    Args:
        need: of the run.
        memory: bytes that it may take; what is free on this machine if None.
        int8: whether int8 weights are asked for.
        advice: what else can be done where nothing fits.

    Raises:
        LociError: when `memory` is given and too little whatever is done.
    """
    most = free_ram() if memory is None else memory
    if int8:
        order: tuple[WeightPlacement, ...] = ("int8",)
    else:
        order = ("resident", "streamed")
    fitting: list[WeightPlacement] = [weights for weights in order if need.total(weights) <= most]
    if not fitting and memory is not None:
        raise LociError(
            f"--max-ram: {memory / GB:.1f} GB, but this {need.described(order[-1])}; {advice}"
        )
    return fitting[0] if fitting else order[-1]


def free_ram() -> float:
    """Bytes that can be had without swapping; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return float("inf")


# A walk

TOKEN = 60_000
"""Bytes of an evaluation at its peak for each token of a row, at width 1536 in bfloat16, as
measured: rotary positions and norms in float32, queries, keys and values of memory and noise."""
FEED_FORWARD = 0.3e9
"""Bytes of its hidden layer, which sees a piece of the tokens at a time."""
CODEC_PIXEL = 18_000
"""Bytes of decoding at its peak for each pixel of a tile: four frames, float32. An estimate, from
the 12 000 that encoding four frames took."""
STATE_PIXEL = 500
"""Bytes of a walk's state for each pixel of a frame, as measured at 448x896."""
ROWS = 2
"""Prompt and negative prompt."""


def walk_ram(model: Path, dtype: torch.dtype, height: int, width: int) -> RamNeed | None:
    """What a walk with the published model needs; None for other models, which are small.

    Raises:
        LociError: when files of the model are missing or damaged.
    """
    import torch

    from loci.codecs.wan import LARGEST_TILE, WanCodec
    from loci.world.published_files import infinite_world_sizes
    from loci.world.transformer import WorldTransformer

    sizes = infinite_world_sizes(model)
    if sizes is None:
        return None
    config = sizes.transformer
    with torch.device("meta"):
        transformer = WorldTransformer(config)
        codec = 4.0 * parameter_count(WanCodec(sizes.codec))
    blocks = parameter_count(transformer.blocks) * dtype.itemsize
    rest = parameter_count(transformer) * dtype.itemsize - blocks
    tokens = (height // 16) * (width // 16)
    scale = config.dim / 1536 * dtype.itemsize / 2
    kept = config.blocks * (2 * tokens + 2 * 512) * config.dim * dtype.itemsize
    chunk = (23 * tokens * TOKEN + FEED_FORWARD) * scale + ROWS * kept
    tile = min(height * width, LARGEST_TILE * 64)
    work = max(chunk, CODEC_PIXEL * tile) + 2 * STATE_PIXEL * height * width
    return RamNeed(blocks, blocks / config.blocks, rest + codec, work)


LIFT_WORK = 1.9e9
"""Bytes besides weights at the peak of a full-size lift, as measured."""


def lift_ram(model: Path, dtype: torch.dtype) -> RamNeed | None:
    """What a lift with the published model needs, whose parts are loaded one at a time; None for
    other models, which are small.

    Raises:
        LociError: when files of the model are missing or damaged.
    """
    import torch

    from loci.objects.parts import FLOWS
    from loci.objects.published_files import sam3d_configs

    configs = sam3d_configs(model)
    if configs is None:
        return None
    with torch.device("meta"):
        flows = [configs.build(name) for name in FLOWS]
    largest = max(flows, key=parameter_count)
    stack: Any = largest.blocks
    blocks = parameter_count(stack) * dtype.itemsize
    rest = parameter_count(largest) * dtype.itemsize - blocks
    return RamNeed(blocks, blocks / len(stack), rest, LIFT_WORK)


def parameter_count(module: torch.nn.Module) -> int:
    """How many numbers the weights of a module are."""
    return sum(tensor.numel() for tensor in module.state_dict().values())
