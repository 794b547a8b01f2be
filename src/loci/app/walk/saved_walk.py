"""The header of a saved walk, read without torch; `world/walk_file.py` reads the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.io.video import VideoInfo, video_info

MAX_HEADER = 100_000_000
FORMAT = "loci-walk-"
"""What the format of every version begins with."""


@dataclass(frozen=True)
class SavedWalk:
    """A walk to continue.

    Attributes:
        path: its file.
        frames: how many it has, the picture included.
        video: the file they were written to, if it was saved by `loci walk`.
        walk_id: what that video's comment holds.
        skipped: how many of its frames came before those that `loci play` keeps beside it.
    """

    path: Path
    frames: int
    video: Path | None
    walk_id: str
    skipped: int = 0

    @classmethod
    def read(cls, path: Path) -> SavedWalk:
        """Raises LociError when the file is absent, damaged or no saved walk."""
        try:
            content = json.loads(_metadata(path)["walk"])
            video = content.get("video") or {}
            name = video.get("path")
            return cls(
                path,
                int(content["frames"]),
                None if name is None else path.parent / name,
                str(video.get("walk_id", "")),
                int(content.get("skipped", 0)),
            )
        except FileNotFoundError as error:
            raise LociError(f"{path}: no such walk") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LociError(
                f"{path}: damaged or no walk, expected a file of loci walk --save"
            ) from error

    def has_own(self, video: Path) -> VideoInfo | None:
        """What a video says of itself if it begins with all frames of this walk; None if not."""
        info = video_info(video) if self.walk_id else None
        if info is None or info.comment != walk_comment(self.walk_id):
            return None
        return info if info.frames >= self.frames else None


def walk_comment(walk_id: str) -> str:
    """What tells the video of one walk from that of another."""
    return f"loci walk {walk_id}"


def _metadata(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: eight bytes with its length, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError("no safetensors file")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__")
    end = max(tensor["data_offsets"][1] for tensor in header.values())
    if path.stat().st_size != 8 + length + end:
        raise ValueError("truncated")
    if not metadata["format"].startswith(FORMAT):
        raise ValueError(f"another format: {metadata['format']}")
    return metadata
