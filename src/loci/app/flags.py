"""Help shows a flag without a default as `--seed INT`, not `--seed {None}|INT (default: None)`."""

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from inspect import Parameter, signature
from types import FunctionType
from typing import Annotated, Any, get_args, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

UNSET = tyro.conf.arg(help_behavior_hint="")
REPEATABLE = get_args(tyro.conf.UseAppendAction[int])[1]


def _shown(annotation: Any, default: object) -> Any:
    """The annotation of a flag, which says nothing of a default that is None or empty."""
    if default is None:
        return Annotated[annotation, tyro.conf.DisallowNone, UNSET]
    if default in ((), Parameter.empty) and REPEATABLE not in get_args(annotation):
        return Annotated[annotation, UNSET]
    return annotation


def plain_function(function: Callable[..., object]) -> Callable[..., object]:
    """A copy of a function, for tyro to call."""
    if not isinstance(function, FunctionType):
        return function
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__, copy.__module__ = function.__doc__, function.__module__
    hints = get_type_hints(function, include_extras=True)
    taken = signature(function)  # of a wrapped function, if it is a wrapper
    shown = {name: _shown(hints[name], p.default) for name, p in taken.parameters.items()}
    copy.__annotations__ = hints | shown
    parameters = [p.replace(annotation=shown[name]) for name, p in taken.parameters.items()]
    copy.__signature__ = taken.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return copy


def _plain_field(field: StructFieldSpec) -> StructFieldSpec:
    text = field.helptext
    return replace(
        field,
        type=_shown(field.type, field.default),
        helptext=lambda: _one_paragraph(text() if callable(text) else text),
    )


def _one_paragraph(text: str | None) -> str | None:
    return text and " ".join(text.split())


def plain_dataclasses() -> ConstructorRegistry:
    """Rules for tyro, by which the fields of dataclasses are shown likewise."""
    registry = ConstructorRegistry()
    asking = False

    @registry.struct_rule
    def plain(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal asking
        if asking or not is_dataclass(info.type):
            return None
        asking = True  # so that tyro's own rule answers
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            asking = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        return replace(spec, fields=tuple(map(_plain_field, spec.fields)))

    return registry
