"""`loci doctor`: what this machine has, whether a model is complete, and what it will need."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME
from loci.io.files import free_space
from loci.io.models import find_model

if TYPE_CHECKING:
    import torch

    from loci.io.tensor_files import TensorInfo

GB = 1e9
SMALL = 1_000_000_000
"""Models of fewer numbers run anywhere."""
PRODUCT = 1536
"""Side of the matrices whose product is timed."""


@dataclass(frozen=True)
class CheckedPart:
    """A part of a model on disk: its tensors, or what is wrong with it."""

    name: str
    bytes: int = 0
    numbers: int = 0
    types: str = ""
    problem: str = ""


@dataclass(frozen=True)
class RunCost:
    """What a piece of work needs: operations, the rate they run at here, and memory."""

    what: str
    operations: float
    rate: float
    memory: float

    @property
    def seconds(self) -> float:
        return self.operations / self.rate


def doctor(
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME|PATH")] = None,
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None,
) -> None:
    """Look at this machine and at a model: complete, fitting, how long it will take.

    Reads the headers of the files, not the weights. Times and memory are computed from counted
    operations and from parts that are timed here, on random weights.

    Args:
        model: a shipped model, a folder, published checkpoints, or a hub id; only the machine if
            none is given.
        size: height and width of a walk's frames; 448x896 if not given.
    """
    height, width = _size(size)
    folder = None if model is None else find_model(model, CONFIG_NAME)

    import torch

    print("This machine")
    _machine()
    if folder is None:
        print("\nA model is looked at with --model: loci doctor --model PATH")
        return
    print(f"\nThe model {model}")
    kind, parts = check_model(folder)
    for part in parts:
        state = part.problem or f"{part.numbers / 1e6:10.1f} M  {part.types}"
        print(f"  {part.name:<22}{part.bytes / GB:8.2f} GB  {state}")
    broken = [part for part in parts if part.problem]
    if broken:
        raise LociError(f"{model}: {len(broken)} of {len(parts)} parts cannot be used, see above")
    print(f"  complete: {len(parts)} parts, {sum(part.bytes for part in parts) / GB:.2f} GB")
    rate = product_rate(torch.bfloat16), product_rate(torch.float32)
    print(
        f"\nWhat it will need on the CPU, computed; matrix products timed here: bfloat16 "
        f"{rate[0] / 1e12:.2f}, float32 {rate[1] / 1e12:.2f} TFLOP/s"
    )
    dtype = torch.bfloat16 if rate[0] > rate[1] else torch.float32
    needs = list(_needs(kind, folder, parts, dtype, height, width))
    for need in needs:
        print(
            f"  {need.what:<34}{need.operations / 1e12:9.1f} TFLOP at {need.rate / 1e12:5.2f}: "
            f"{_duration(need.seconds)}, {need.memory / GB:.1f} GB"
        )
    if not needs:
        print("  a small model: no requirements to report")
    else:
        _advice(max(need.memory for need in needs), str(dtype).removeprefix("torch."), kind)


def check_model(folder: Path) -> tuple[str, list[CheckedPart]]:
    """What kind of model a folder holds ("world" or "lifter"), and the state of each of its parts.

    Raises:
        LociError: when it holds none, or files are missing.
    """
    from loci.objects.config import LIFTER_NAME
    from loci.objects.published_files import PUBLISHED_FILES, Sam3dCheckpoint

    if (folder / LIFTER_NAME).is_file():
        return "lifter", list(_saved_parts(folder))
    if (folder / CONFIG_NAME).is_file():
        return "world", list(_saved_parts(folder))
    published = None if folder.is_file() else Sam3dCheckpoint.find(folder)
    if published is not None:
        names = [name for name in PUBLISHED_FILES if published.has(name)]
        return "lifter", [_checked(name, partial(published.load, name)) for name in names]
    return "world", list(_published_world(folder))


def _saved_parts(folder: Path) -> Iterator[CheckedPart]:
    from loci.codecs.wan import WanCodec
    from loci.io.weights import WEIGHTS_NAME, read_infos
    from loci.objects.parts import PARTS, SavedParts
    from loci.world.transformer import WorldTransformer

    lifter = SavedParts(folder)
    for inner in sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}")):
        name = inner.name
        if name in PARTS or lifter.has(name):
            yield _checked(name, lambda name=name: lifter.load(name))
        elif name == "transformer":
            yield _checked(name, lambda inner=inner: WorldTransformer.from_pretrained(inner))
        elif name == "codec" and "Wan" in (inner / CONFIG_NAME).read_text():
            yield _checked(name, lambda inner=inner: WanCodec.from_pretrained(inner))
        else:
            yield _checked(name, lambda inner=inner: read_infos(inner / WEIGHTS_NAME))


def _published_world(folder: Path) -> Iterator[CheckedPart]:
    from loci.world.published_files import (
        InfiniteWorldFiles,
        load_codec,
        load_text_encoder,
        load_transformer,
    )

    files = InfiniteWorldFiles.find(folder)
    sizes = files.sizes
    yield _checked("transformer", lambda: load_transformer(files.transformer, sizes.transformer))
    yield _checked("codec", lambda: load_codec(files.codec, sizes.codec))
    words = sizes.text_encoder
    yield _checked("text_encoder", lambda: load_text_encoder(files.text_encoder, None, words))


def _checked(name: str, load: Callable[[], object]) -> CheckedPart:
    """Names, shapes and types of a part. Weights are mapped, not read."""
    import torch

    from loci.io.weights import infos_of

    try:
        part = load()
    except LociError as error:
        return CheckedPart(name, problem=str(error))
    tensors = part.state_dict() if isinstance(part, torch.nn.Module) else part
    infos: dict[str, TensorInfo] = (
        infos_of(tensors) if isinstance(part, torch.nn.Module) else dict(tensors)  # pyright: ignore
    )
    infos.pop("encoder.embed_tokens.weight", None)  # the word embedding once more
    types = sorted({str(info.dtype).removeprefix("torch.") for info in infos.values()})
    numbers = sum(info.bytes // info.dtype.itemsize for info in infos.values())
    return CheckedPart(name, sum(i.bytes for i in infos.values()), numbers, ", ".join(types))


def _size(size: str | None) -> tuple[int, int]:
    try:
        height, width = map(int, (size or "448x896").split("x"))
    except ValueError as error:
        raise LociError(f"--size: {size}, expected HEIGHTxWIDTH such as 448x896") from error
    if height % 16 or width % 16 or min(height, width) < 16:
        raise LociError(f"--size: {size}, expected multiples of 16 pixels")
    return height, width


def _machine() -> None:
    import torch

    free, total = memory()
    print(f"  processor  {os.cpu_count()} cores, {torch.get_num_threads()} threads for torch")
    print(f"  memory     {free / GB:.1f} of {total / GB:.1f} GB free")
    print(f"  disk       {free_space('.') / GB:.1f} GB free here")
    cards = range(torch.cuda.device_count())
    devices = [f"cuda:{card} ({torch.cuda.get_device_name(card)})" for card in cards]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    print(f"  devices    {', '.join([*devices, 'cpu'])}")
    print(f"  versions   Python {sys.version.split()[0]}, torch {torch.__version__}")


def memory() -> tuple[int, int]:
    """Bytes of memory that are available, and in all."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return 1024 * kilobytes["MemAvailable"], 1024 * kilobytes["MemTotal"]
    except (OSError, KeyError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total


def product_rate(dtype: torch.dtype) -> float:
    """Operations a second of a matrix product on the CPU: the better of two."""
    import torch

    from loci.bench.published import best_seconds

    a, b = (torch.randn(PRODUCT, PRODUCT).to(dtype) for _ in range(2))
    return 2 * PRODUCT**3 / best_seconds(lambda: a @ b)


def _needs(
    kind: str,
    folder: Path,
    parts: list[CheckedPart],
    dtype: torch.dtype,
    height: int,
    width: int,
) -> Iterator[RunCost]:
    from loci.app.doctor_parts import lift_needs, walk_needs

    numbers = {part.name: part.numbers for part in parts}
    if sum(numbers.values()) < SMALL:
        return
    if kind == "world" and "text_encoder" in numbers:
        yield from (RunCost(*need) for need in walk_needs(folder, dtype, height, width))
    elif kind == "lifter" and "structure_fuser" in numbers:
        yield from (RunCost(*need) for need in lift_needs(folder, dtype))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _advice(needed: float, dtype: str, kind: str) -> None:
    free, _ = memory()
    command = "walk" if kind == "world" else "lift"
    if needed <= free:
        print(f"\nIt fits: loci {command} --dtype {dtype} --model ...")
        return
    print(f"\nIt does not fit: needs {needed / GB:.1f} GB, {free / GB:.1f} GB are free. Try:")
    print(f"  loci {command} --max-ram {free / GB:.0f}GB, which streams weights from disk")
    print("  closing other programs, or a machine with more memory")
    print("  --dtype bfloat16, which halves the weights of float32")
    if kind == "world":
        print("  --size 256x256 and smaller pictures; --steps 10 for time, not memory")
