"""The data that benchmarks need, and the commands that make it."""

from pathlib import Path

from loci.errors import LociError

FURNITURE = "/usr/share/sweethome3d/furniture"
"""Where the Debian package sweethome3d-furniture puts its meshes."""


PACKS = "https://github.com/KayKit-Game-Assets/KayKit-Halloween-Bits-1.0"
"""A pack that is held out as a whole, where it is published."""


def check_objects(data: Path, *parts: str) -> None:
    """Raises LociError with the command that makes the objects, unless every part has some."""
    for part in parts:
        if not any((data / part).glob("[!.]*.safetensors")):
            command = _objects_command(data, part)
            raise LociError(f"{data / part}: no objects; make them with: {command}")


def _objects_command(data: Path, part: str) -> str:
    if part == "simple":
        return f"loci data objects --simple 48 --out {data}"
    if part == "packs":
        clone = f"git clone --depth 1 {PACKS} packs/halloween"
        return f"{clone} && loci data objects packs --out {data}"
    install = "apt-get install sweethome3d-furniture"
    return f"{install} && loci data objects {FURNITURE} --out {data}"


def check_walks(data: Path, *parts: str) -> None:
    """Raises LociError with the command that records walks, unless every part has some."""
    for part in parts:
        folder = data / part
        if not (folder / "meta.json").is_file():
            raise LociError(
                f"{folder}: no recorded walks; record some with: loci data doom --out {folder} "
                f"--split {part}"
            )
