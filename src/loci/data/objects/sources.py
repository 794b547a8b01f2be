"""Where meshes come from: OBJ, GLB and glTF files, and libraries of Sweet Home 3D (.sh3f)."""

import json
import posixpath
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loci.data.objects.mesh_files import TO_Z_UP, Submesh, read_mesh, read_mesh_file
from loci.errors import LociError

CATALOG = "PluginFurnitureCatalog.properties"


@dataclass(frozen=True)
class Furniture:
    """One entry of a library's catalog.

    Attributes:
        path: of the OBJ in the library.
        size: of the longest side in metres.
        rotation: matrix, row by row, for column vectors in the file's frame (y up).
        opening: whether it is a door or a window.
    """

    library: Path
    id: str
    name: str
    category: str
    path: str
    author: str
    licence: str
    size: float
    rotation: tuple[float, ...]
    opening: bool


def catalog(library: Path) -> list[Furniture]:
    """The entries of a .sh3f file, which is a zip of OBJ files with a catalog.

    Raises:
        LociError: when the file is not such a library.
    """
    try:
        with zipfile.ZipFile(library) as archive:
            text = archive.read(CATALOG).decode("latin-1")
    except (zipfile.BadZipFile, KeyError) as error:
        raise LociError(
            f"{library}: expected a furniture library (.sh3f) with a catalog"
        ) from error
    values = _properties(text)
    numbers = [key.split("#")[1] for key in values if key.startswith("id#")]
    return [_entry(library, values, number) for number in numbers]


def read_furniture(entry: Furniture) -> list[Submesh]:
    """The submeshes of one entry, z up and the front toward -y.

    Raises:
        LociError: when the model is missing or damaged.
    """
    with zipfile.ZipFile(entry.library) as archive:
        folder = posixpath.dirname(entry.path)

        def read_file(name: str) -> bytes:
            inside = posixpath.join(folder, name.replace("\\", "/"))
            return archive.read(posixpath.normpath(inside))

        try:
            content = archive.read(entry.path)
        except (KeyError, zipfile.BadZipFile) as error:
            raise LociError(f"{entry.library}: {entry.path} is missing or damaged") from error
        submeshes = read_mesh(content, "obj", read_file, f"{entry.library.name}: {entry.path}")
    rotation = np.array(entry.rotation, np.float32).reshape(3, 3).T
    return [submesh.rotated(TO_Z_UP.T @ rotation @ TO_Z_UP) for submesh in submeshes]


def _properties(text: str) -> dict[str, str]:
    """Keys and values, one a line: the libraries have no continuation lines."""
    values = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", "!")):
            unescaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value)
            values[key.strip()] = unescaped.strip()
    return values


def _entry(library: Path, values: dict[str, str], number: str) -> Furniture:
    def value(key: str, default: str = "") -> str:
        return values.get(f"{key}#{number}", default)

    try:
        sides = [float(value(side)) for side in ("width", "depth", "height")]
        rotation = tuple(map(float, value("modelRotation", "1 0 0 0 1 0 0 0 1").split()))
    except ValueError as error:
        raise LociError(f"{library}: entry {number} has no size in numbers") from error
    if len(rotation) != 9:
        raise LociError(f"{library}: entry {number} has no rotation of nine numbers")
    return Furniture(
        library=library,
        id=value("id"),
        name=value("name"),
        category=value("category"),
        path=value("model").lstrip("/"),
        author=value("creator"),
        licence=_spdx(values.get("license", "")),
        size=max(sides) / 100,
        rotation=rotation,
        opening=value("doorOrWindow") == "true" or value("category") == "Doors and windows",
    )


def _spdx(licence: str) -> str:
    """SPDX identifiers of the licences of the published libraries."""
    if "public domain" in licence.lower():
        return "CC0-1.0"
    if "Attribution 3.0" in licence:
        return "CC-BY-3.0-US" if "United States" in licence else "CC-BY-3.0"
    return licence


MESHES = (".obj", ".glb", ".gltf")
ORIGIN = "source.json"
"""Says whose the meshes of a folder and of those in it are: {"source": ..., "licence": ...,
"author": ...}."""
LIBRARY = ".sh3f"


@dataclass(frozen=True)
class MeshSource:
    """An object that can be read.

    Attributes:
        name: of its file in a data set: lower-case letters, digits, "-" and "_".
        size: of the longest side in metres, or None when it is not known.
        opening: whether it is a door or a window.
        read: gives its submeshes, z up.
    """

    name: str
    title: str
    category: str
    origin: str
    licence: str
    author: str
    size: float | None
    opening: bool
    read: Callable[[], list[Submesh]]

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


def find_sources(path: Path) -> list[MeshSource]:
    """The objects of a file or of all files in a folder, ordered by file.

    Raises:
        LociError: when there are none, two have the same name, or a library is damaged.
    """
    if not path.exists():
        raise LociError(f"{path}: expected a file or folder of .sh3f, .obj, .glb or .gltf")
    kinds = (*MESHES, LIBRARY)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    files = [file for file in files if file.suffix.lower() in kinds]
    root = path.parent if path.is_file() else path
    sources: list[MeshSource] = []
    for file in files:
        if file.suffix.lower() == LIBRARY:
            sources += map(_of_library, catalog(file))
        else:
            sources.append(_of_file(file, root))
    if not sources:
        raise LociError(f"{path}: expected .sh3f, .obj, .glb or .gltf files, found none")
    seen: dict[str, MeshSource] = {}
    for source in sources:
        if seen.setdefault(source.name, source) is not source:
            both = f"{seen[source.name].origin} and {source.origin}"
            raise LociError(f"{path}: {both} would both be called {source.name}")
    return sources


def slug(text: str) -> str:
    """Lower-case letters, digits and "_"; everything else becomes "-"."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def _of_library(entry: Furniture) -> MeshSource:
    return MeshSource(
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


def _origin(folder: Path, root: Path) -> dict[str, str]:
    """What `ORIGIN` says in a folder or the nearest one around it, up to the root."""
    for place in (folder, *folder.parents):
        if (place / ORIGIN).is_file():
            try:
                found = json.loads((place / ORIGIN).read_text(encoding="utf-8"))
            except ValueError:
                found = None
            if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
                raise LociError(f"{place / ORIGIN}: expected source, licence and author as text")
            return found
        if place == root:
            break
    return {}


def _of_file(file: Path, root: Path) -> MeshSource:
    inside = file.relative_to(root)
    origin = _origin(file.parent, root)
    source = f"{origin['source']}: {inside.as_posix()}" if "source" in origin else inside.as_posix()
    return MeshSource(
        name=slug(str(inside.with_suffix(""))),
        title=file.stem,
        category=inside.parent.name,
        origin=source,
        licence=origin.get("licence", "unknown"),
        author=origin.get("author", "unknown"),
        size=None,
        opening=False,
        read=partial(read_mesh_file, file),
    )
