"""Weights on disk: read safely, loaded strictly, written all or nothing.

Every saved model is a folder with `config.json` and `model.safetensors`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.config import CONFIG_NAME, ConfigT, load_config, save_config
from loci.io.files import write_whole
from loci.io.models import pretrained_folder

WEIGHTS_NAME = "model.safetensors"
NAMES_SHOWN = 8

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def read_tensors(path: Path | str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a PyTorch pickle, by name, on the CPU.

    Pickles are read weights-only and may hold the dictionary plainly or under `state_dict`. With
    a prefix, only what begins with it is returned, without it, and nothing else is read.
    Raises LociError if the file is absent, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise LociError(f"{path}: no such weights file")
    try:
        content = _read(path, prefix)
    except Exception as error:  # a damaged file raises nearly anything
        raise LociError(
            f"{path}: expected safetensors or a weights-only PyTorch pickle, cannot read it "
            f"({type(error).__name__})"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise LociError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    wanted = {
        str(name).removeprefix(prefix): value
        for name, value in content.items()
        if str(name).startswith(prefix)
    }
    foreign = [name for name, value in wanted.items() if not isinstance(value, Tensor)]
    if foreign:
        raise LociError(f"{path}: expected only tensors, but {_shown(foreign)} are not")
    return wanted


def _read(path: Path, prefix: str) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    # Mapped, what is not wanted of a file is never read; only the older format cannot be.
    mapped = bool(prefix) and zipfile.is_zipfile(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Loads `tensors` into `module`; the names and shapes must be exactly the module's.

    A module on the meta device takes the tensors as they are (their element type included);
    any other keeps its own element type and device. `what` names the weights in the LociError
    that lists every missing, unexpected or misshapen tensor (the first few of each, and counts).
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {kind}: {_shown(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if problems:
        raise LociError(f"{what}: weights do not fit the model; " + "; ".join(problems))
    on_meta = any(tensor.is_meta for tensor in expected.values())
    module.load_state_dict(dict(tensors), strict=True, assign=on_meta)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Writes a safetensors file, floating tensors as `dtype` if given."""
    from safetensors.torch import save

    def plain(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return tensor.to(dtype or tensor.dtype) if tensor.is_floating_point() else tensor

    content = {name: plain(tensor).contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, save(content))


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


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
