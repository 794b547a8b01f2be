"""Weights and configurations on disk: read safely, loaded strictly, written all or nothing.

Every saved model is a folder with `config.json` and `model.safetensors`.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.files import replacing

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
NAMES_SHOWN = 8

ConfigT = TypeVar("ConfigT")
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


def pretrained_folder(source: Path | str) -> Path:
    """A local folder as it is, anything else as a hub id, downloaded (and cached) if need be."""
    if Path(source).is_dir():
        return Path(source)
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise LociError(
            f"{text}: no such model folder, and no model of that name is shipped; expected one of "
            "them or a hub id (owner/name)"
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "*.model"]))
    except ImportError as error:
        raise LociError(f"{text}: hub ids need the package huggingface_hub") from error
    except Exception as error:  # network, authentication, unknown repository
        raise LociError(f"{text}: neither a model folder nor a reachable hub id") from error


def save_config(path: Path, config: Any) -> None:
    """Writes a dataclass as JSON, with the name of its class under `config`."""
    content = {"config": type(config).__name__} | dataclasses.asdict(config)
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def load_config(path: Path | str, kind: type[ConfigT]) -> ConfigT:
    """Read what `save_config` wrote.

    A class that was renamed, or had fields renamed, lists `FORMER_NAMES: ClassVar[tuple[str, ...]]`
    and `FORMER_FIELDS: ClassVar[dict[str, str]]` (old name to new), so that older folders load.

    Raises:
        LociError: on another class or on wrong fields.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LociError(f"{path}: expected a JSON configuration, cannot read it") from error
    names = (kind.__name__, *getattr(kind, "FORMER_NAMES", ()))
    if not isinstance(content, dict) or content.get("config", kind.__name__) not in names:
        raise LociError(f"{path}: expected a {kind.__name__}")
    fields = {name: value for name, value in content.items() if name != "config"}
    try:
        return _build(kind, fields)
    except (TypeError, ValueError) as error:
        raise LociError(f"{path}: not a valid {kind.__name__} ({error})") from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file all or nothing, making its folder if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise LociError(f"{path}: cannot be written ({error.strerror})") from error


def _build(kind: Any, value: Any) -> Any:
    """`value` from JSON as the annotated type: nested dataclasses, lists back to tuples."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        former = getattr(kind, "FORMER_FIELDS", {})
        value = {former.get(name, name): entry for name, entry in value.items()}
        unknown = [name for name in value if name not in hints]
        if unknown:
            raise TypeError(f"unknown field {', '.join(unknown)}")
        fields = {name: _build(hints[name], entry) for name, entry in value.items()}
        return typing.cast(Any, kind)(**fields)
    if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
        expected = " or ".join(map(repr, typing.get_args(kind)))
        raise ValueError(f"{value!r}, expected {expected}")
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        entry = typing.get_args(kind)[0]
        return tuple(_build(entry, item) for item in value)
    return value


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
