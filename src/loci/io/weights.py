"""Weights on disk: read safely, loaded strictly, written all or nothing.

Every saved model is a folder with `config.json` and `model.safetensors`.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.config_files import CONFIG_NAME, ConfigT, load_config, read_json, save_config
from loci.io.models import pretrained_folder
from loci.io.tensor_files import (
    TensorInfo,
    check_pickle,
    safetensors_infos,
    write_safetensors,
)
from loci.io.weight_checks import check_fit, current_names, first_few, is_finite

WEIGHTS_NAME = "model.safetensors"
CHECKED_NUMBERS, CHECKED_OF_EACH = 100_000_000, 4096
"""Up to so many numbers a model is searched for infinities when it is loaded; of larger ones only
the first numbers of each tensor are."""
CONTAINERS = ("state_dict", "model_state_dict", "model")
"""Under what checkpoints hold their tensors."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and common trainers put before every name."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)
T = TypeVar("T")


def read_tensors(path: Path | str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, on the CPU.

    Args:
        path: a `.safetensors` file, a PyTorch pickle, or the index of a sharded model
            (`*.index.json`); where `path` is absent, `path.index.json` is read if it is there.
            Pickles are read weights-only, and may hold the tensors under `state_dict` or `model`.
            What torch puts before every name (`module.`, `_orig_mod.`, `model.`) is removed.
        prefix: only tensors whose name begins with it are read; it is removed.

    Raises:
        LociError: when the file is absent, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file() and _index(path).is_file():
        path = _index(path)
    if not path.is_file():
        raise LociError(f"{path}: no such weights file")
    if path.suffix == ".json":
        return _read_shards(path, prefix)
    if path.suffix == ".safetensors":
        with _reading(path):
            return _read_safetensors(path, prefix)
    content = _unwrapped(_read_pickle(path))
    if not isinstance(content, Mapping):
        raise LociError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    wanted = {new: content[old] for old, new in _selected(list(content), prefix).items()}
    foreign = [name for name, value in wanted.items() if not isinstance(value, Tensor)]
    if foreign:
        raise LociError(f"{path}: expected only tensors, but {first_few(foreign)} are not")
    return wanted


def read_infos(path: Path | str, prefix: str = "") -> dict[str, TensorInfo]:
    """Types and shapes of what `read_tensors` would read, from the headers of the files.

    Raises:
        LociError: as `read_tensors`; files that are cut short are found.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        infos = safetensors_infos(path)
        return {new: infos[old] for old, new in _selected(list(infos), prefix).items()}
    return infos_of(read_tensors(path, prefix))


def infos_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """Types and shapes of tensors, by name."""
    return {name: TensorInfo.of(tensor) for name, tensor in tensors.items()}


def has_tensors(path: Path) -> bool:
    """Whether `read_tensors` finds a file there, whole or in shards."""
    return path.is_file() or _index(path).is_file()


def _index(path: Path) -> Path:
    return path.with_name(path.name + ".index.json")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except LociError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise LociError(
            f"{path}: expected safetensors or a weights-only PyTorch pickle, cannot read it "
            f"({type(error).__name__})"
        ) from error


def _read_safetensors(path: Path, prefix: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    safetensors_infos(path)  # whether the file is whole
    with safe_open(path, framework="pt") as file:
        selected = _selected(list(file.keys()), prefix)
        return {new: file.get_tensor(old) for old, new in selected.items()}


def _read_pickle(path: Path) -> Any:
    # Mapped, tensors are read when they are used; only the older format cannot be.
    check_pickle(path)
    mapped = zipfile.is_zipfile(path)
    with _reading(path):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            foreign = _foreign_objects(path, str(error))
            if not foreign:
                raise
    raise LociError(
        f"{path}: holds {first_few(foreign)}, which could run code when it is loaded; expected "
        "only tensors. If you trust the file, load it where it comes from and save its state_dict()"
    )


def _foreign_objects(path: Path, message: str) -> list[str]:
    """What a pickle holds that is neither a tensor nor a plain value."""
    if zipfile.is_zipfile(path):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return re.findall(r"GLOBAL (\S+) was not an allowed global", message)


def _read_shards(index: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of the files that an index lists, each of which must hold what it says."""
    content = read_json(index)
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise LociError(f"{index}: expected an index with a weight_map from names to files")
    tensors = {}
    for name in sorted(set(map(str, files.values()))):
        if Path(name).name != name:
            raise LociError(f"{index}: {name}, expected files beside the index")
        tensors |= read_tensors(index.with_name(name))
    absent = [name for name in files if name not in tensors]
    if absent:
        raise LociError(f"{index}: {first_few(absent)} not in the files listed")
    return {new: tensors[old] for old, new in _selected(list(tensors), prefix).items()}


def _unwrapped(content: Any) -> Any:
    """The dictionary of tensors itself where a checkpoint holds other things as well."""
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    return content


def _selected(names: list[str], prefix: str) -> dict[str, str]:
    """Names as they are in a file, to those without what wraps all of them and the prefix."""
    common = ""
    while wrapper := next(
        (
            wrapper
            for wrapper in WRAPPERS
            if names
            and not prefix.startswith(wrapper)
            and all(str(name).startswith(common + wrapper) for name in names)
        ),
        None,
    ):
        common += wrapper
    plain = {name: str(name).removeprefix(common) for name in names}
    return {
        old: name.removeprefix(prefix) for old, name in plain.items() if name.startswith(prefix)
    }


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Loads `tensors` into `module`; the names and shapes must be exactly the module's.

    A module on the meta device takes the tensors as they are (their element type included);
    any other keeps its own element type and device. A module whose parts were renamed lists
    `FORMER_TENSORS: ClassVar[dict[str, str]]`, former beginnings of names to new, so that older
    and published weights load. `what` names the weights in the LociError
    that lists every missing, unexpected or misshapen tensor (the first few of each, and counts),
    or the quantised ones: integers are never taken for weights.
    """
    expected = module.state_dict()
    tensors = current_names(tensors, getattr(module, "FORMER_TENSORS", {}))
    check_fit(infos_of(expected), infos_of(tensors), what)
    whole = sum(tensor.numel() for tensor in tensors.values()) <= CHECKED_NUMBERS
    broken = [
        name
        for name, tensor in tensors.items()
        if not is_finite(tensor if whole else tensor.reshape(-1)[:CHECKED_OF_EACH])
    ]
    if broken:
        raise LociError(f"{what}: weights are damaged, not finite: {first_few(broken)}")
    on_meta = any(tensor.is_meta for tensor in expected.values())
    module.load_state_dict(dict(tensors), strict=True, assign=on_meta)


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes a safetensors file one tensor at a time, floating tensors as `dtype` if given.

    `progress` is called with the bytes that were written.
    """
    infos = {
        name: TensorInfo(
            (dtype or tensor.dtype) if tensor.is_floating_point() else tensor.dtype,
            tuple(tensor.shape),
        )
        for name, tensor in tensors.items()
    }
    write_safetensors(path, infos, lambda name: tensors[name], progress)


def save_pretrained(
    folder: Path | str, config: Any, module: nn.Module, dtype: torch.dtype | None = None
) -> None:
    """Writes `config.json` and `model.safetensors` into `folder`."""
    folder = Path(folder)
    save_tensors(folder / WEIGHTS_NAME, module.state_dict(), dtype)
    save_config(folder / CONFIG_NAME, config)


def load_pretrained(
    build: Callable[[ConfigT], ModuleT], kind: type[ConfigT], source: Path | str
) -> ModuleT:
    """What `save_pretrained` wrote, from a folder or hub id: strict, in the saved type.

    `build` makes the module from its configuration, which is a `kind`. Raises LociError naming
    what is missing, damaged or misshapen.
    """
    folder = pretrained_folder(source)
    config = load_config(folder / CONFIG_NAME, kind)
    with torch.device("meta"):
        module = build(config)
    load_strict(module, read_tensors(folder / WEIGHTS_NAME), str(source))
    return module.eval()
