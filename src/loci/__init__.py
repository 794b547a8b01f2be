"""Loci: a world model with long-term memory, and single-image 3D lifting."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loci.errors import LociError
    from loci.objects.lifter import Lifter
    from loci.world.world import World

__all__ = ["Lifter", "LociError", "World"]

# The public names and their homes: `import loci` is quick, torch comes with the first name used.
_HOMES = {
    "Lifter": "loci.objects.lifter",
    "LociError": "loci.errors",
    "World": "loci.world.world",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'loci' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
