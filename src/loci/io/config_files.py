"""Configurations on disk: dataclasses as JSON, checked when they are read."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from loci.errors import LociError
from loci.io.files import write_whole

CONFIG_NAME = "config.json"
LIFTER_NAME = "lifter.json"
"""The file in the folder of an image-to-3D model that holds its LifterConfig."""

ConfigT = TypeVar("ConfigT")


def save_config(path: Path, config: Any) -> None:
    """Writes a dataclass as JSON, with the name of its class under `config`."""
    content = {"config": type(config).__name__} | dataclasses.asdict(config)
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def load_config(path: Path | str, kind: type[ConfigT]) -> ConfigT:
    """Reads what `save_config` wrote.

    A class that was renamed, or had fields renamed, lists `FORMER_NAMES: ClassVar[tuple[str, ...]]`
    and `FORMER_FIELDS: ClassVar[dict[str, str]]` (old name to new), so that older folders load.

    Raises:
        LociError: on another class, an unknown field, or a value of another type.
    """
    content = read_json(path)
    try:
        return config_from_dict(kind, content)
    except LociError as error:
        raise LociError(f"{path}: {error}") from error


def config_from_dict(kind: type[ConfigT], content: Any) -> ConfigT:
    """A dataclass from what JSON gave, fields and classes by former names included.

    Raises:
        LociError: as `load_config`.
    """
    import dacite

    names = (kind.__name__, *getattr(kind, "FORMER_NAMES", ()))
    if not isinstance(content, dict) or content.get("config", kind.__name__) not in names:
        raise LociError(f"expected a {kind.__name__}")
    fields = {name: value for name, value in content.items() if name != "config"}
    renames = {
        nested: lambda value, former=nested.FORMER_FIELDS: _renamed(value, former)
        for nested in set(_dataclasses(kind))
        if hasattr(nested, "FORMER_FIELDS")
    }
    strict = dacite.Config(cast=[tuple], strict=True, type_hooks=renames)
    try:
        return dacite.from_dict(
            typing.cast(Any, kind), _renamed(fields, getattr(kind, "FORMER_FIELDS", {})), strict
        )
    except (dacite.DaciteError, TypeError, ValueError) as error:
        raise LociError(f"not a valid {kind.__name__} ({_explained(error)})") from error


def read_json(path: Path | str) -> Any:
    """What a JSON file holds; a byte-order mark at its beginning is no harm.

    Raises:
        LociError: when it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise LociError(f"{path}: expected a JSON configuration, cannot read it") from error


def _renamed(value: Any, former: dict[str, str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {former.get(name, name): entry for name, entry in value.items()}


def _dataclasses(kind: Any) -> Iterator[Any]:
    """The dataclasses that the fields of `kind` may hold, at any depth."""
    if dataclasses.is_dataclass(kind):
        yield kind
        hints = typing.get_type_hints(kind)
        inner = [hints[field.name] for field in dataclasses.fields(kind)]
    elif isinstance(kind, types.UnionType) or typing.get_origin(kind) is not None:
        inner = [option for option in typing.get_args(kind) if option is not Ellipsis]
    else:
        inner = []
    for option in inner:
        yield from _dataclasses(option)


def _explained(error: Exception) -> str:
    from dacite import UnexpectedDataError, WrongTypeError

    if isinstance(error, UnexpectedDataError):
        return f"unknown field {', '.join(sorted(error.keys))}"
    if isinstance(error, WrongTypeError) and typing.get_origin(error.field_type) is Literal:
        expected = " or ".join(map(repr, typing.get_args(error.field_type)))
        return f"{error.field_path}: {error.value!r}, expected {expected}"
    return str(error)
