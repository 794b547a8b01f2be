"""Where objects come from: mesh files and libraries of furniture, under names that stay."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loci.data.mesh_files import Part, read_mesh_file
from loci.data.sh3f import Furniture, catalog, read_furniture
from loci.errors import LociError

MESHES = (".obj", ".glb")
LIBRARY = ".sh3f"


@dataclass(frozen=True)
class Source:
    """An object to be read.

    Attributes:
        name: of its file in a data set: small letters, digits, "-" and "_".
        size: of the longest side in metres, or None when it is not known.
        opening: a door or a window.
        read: gives its parts, z up.
    """

    name: str
    title: str
    category: str
    origin: str
    licence: str
    author: str
    size: float | None
    opening: bool
    read: Callable[[], list[Part]]

    def header(self) -> dict[str, str]:
        """What is stored with the object."""
        size = {} if self.size is None else {"metres": f"{self.size:.4g}"}
        return size | {
            "name": self.name,
            "title": self.title,
            "category": self.category,
            "source": self.origin,
            "licence": self.licence,
            "author": self.author,
        }


def find_sources(path: Path) -> list[Source]:
    """The objects of a file, or of a folder and the folders below, ordered by file.

    Raises:
        LociError: when there are none, two have the same name, or a library is damaged.
    """
    if not path.exists():
        raise LociError(f"{path}: expected a file or folder of .sh3f, .obj or .glb")
    kinds = (*MESHES, LIBRARY)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    files = [file for file in files if file.suffix.lower() in kinds]
    root = path.parent if path.is_file() else path
    sources: list[Source] = []
    for file in files:
        if file.suffix.lower() == LIBRARY:
            sources += map(_of_library, catalog(file))
        else:
            sources.append(_of_file(file, root))
    if not sources:
        raise LociError(f"{path}: expected .sh3f, .obj or .glb files, found none")
    seen: dict[str, Source] = {}
    for source in sources:
        if seen.setdefault(source.name, source) is not source:
            both = f"{seen[source.name].origin} and {source.origin}"
            raise LociError(f"{path}: {both} would both be called {source.name}")
    return sources


def slug(text: str) -> str:
    """Small letters and digits, words joined by "-"; "_" stays."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def _of_library(entry: Furniture) -> Source:
    return Source(
        name=slug(entry.id),
        title=entry.name,
        category=entry.category,
        origin=f"{entry.library.name}: {entry.path}",
        licence=entry.licence,
        author=entry.author,
        size=entry.size,
        opening=entry.opening,
        read=partial(read_furniture, entry),
    )


def _of_file(file: Path, root: Path) -> Source:
    inside = file.relative_to(root)
    return Source(
        name=slug(str(inside.with_suffix(""))),
        title=file.stem,
        category=inside.parent.name,
        origin=inside.as_posix(),
        licence="unknown",
        author="unknown",
        size=None,
        opening=False,
        read=partial(read_mesh_file, file),
    )
