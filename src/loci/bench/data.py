"""The data that benchmarks need, and the commands that make it."""

from pathlib import Path

from loci.errors import LociError

FURNITURE = "/usr/share/sweethome3d/furniture"
"""Where the Debian package sweethome3d-furniture puts its meshes."""


def check_objects(data: Path, *parts: str) -> None:
    """Raises LociError with the command that makes the objects, unless every part has some."""
    for part in parts:
        if not any((data / part).glob("[!.]*.safetensors")):
            raise LociError(
                f"{data / part}: no objects; make them with: apt-get install "
                f"sweethome3d-furniture && loci data objects {FURNITURE} --out {data}"
            )


def check_walks(data: Path, *parts: str) -> None:
    """Raises LociError with the command that records walks, unless every part has some."""
    for part in parts:
        folder = data / part
        if not (folder / "meta.json").is_file():
            raise LociError(
                f"{folder}: no recorded walks; record some with: loci data doom --out {folder} "
                f"--split {part}"
            )
