"""Lifting from a running walk: `loci lift` in a process of its own, so the walk stays quick."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from loci.errors import LociError

FILES = ("mesh.glb", "splat.ply", "turntable.mp4", "preview.png", "pose.json")
MAX_JOBS = 32
MIN_BOX = 8  # pixels


@dataclass
class Lift:
    """One job: its folder, its process, and the last line that it printed."""

    folder: Path
    process: asyncio.subprocess.Process
    line: str = "starting"
    failure: str | None = None
    reader: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def done(self) -> bool:
        return (self.folder / "out" / "pose.json").is_file()


class Lifts:
    """The lifts of a server; one runs at a time, the oldest are removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Lift] = {}
        self.turn = asyncio.Semaphore(1)

    async def begin(self, image: Image.Image, asked: dict[str, Any]) -> str:
        """Start lifting what a box or a point selects in a picture; returns the job's id.

        Args:
            image: the picture.
            asked: `box` [left, top, right, bottom] or `point` [x, y], as fractions of the picture.

        Raises:
            LociError: for a selection outside the picture, or too small.
        """
        image = image.convert("RGB")
        selection = _selection(image, asked)
        job = secrets.token_hex(8)
        folder = self.folder / job
        folder.mkdir(parents=True)
        image.save(folder / "picture.png")
        command = [sys.executable, "-m", "loci.cli", "lift", str(folder / "picture.png")]
        process = await asyncio.create_subprocess_exec(
            *command,
            *selection,
            *("--out", str(folder / "out")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        lift = Lift(folder, process)
        lift.reader = asyncio.create_task(_read(lift))
        self.jobs[job] = lift
        for old in list(self.jobs)[:-MAX_JOBS]:
            self._remove(old)
        return job

    def progress(self, job: str) -> dict[str, Any] | None:
        """What a job is doing, whether it is done, and its files; None for an unknown job."""
        lift = self.jobs.get(job)
        if lift is None:
            return None
        files = [name for name in FILES if (lift.folder / "out" / name).is_file()]
        return {"line": lift.line, "done": lift.done, "error": lift.failure, "files": files}

    def file(self, job: str, name: str) -> Path | None:
        """A file that a job wrote; None unless it is one of its results."""
        lift = self.jobs.get(job)
        if lift is None or name not in FILES:
            return None
        path = lift.folder / "out" / name
        return path if path.is_file() else None

    def close(self) -> None:
        """End all jobs and remove what they wrote."""
        for job in list(self.jobs):
            self._remove(job)

    def _remove(self, job: str) -> None:
        lift = self.jobs.pop(job)
        with contextlib.suppress(ProcessLookupError):
            lift.process.terminate()
        shutil.rmtree(lift.folder, ignore_errors=True)


async def _read(lift: Lift) -> None:
    """Keep the newest line; progress bars end theirs with a carriage return."""
    assert lift.process.stdout is not None
    pending = ""
    while part := await lift.process.stdout.read(1024):
        pending = (pending + part.decode(errors="replace"))[-4096:]
        lines = [line.strip() for line in re.split(r"[\r\n]", pending) if line.strip()]
        if lines:
            lift.line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", lines[-1])[-160:]
    if await lift.process.wait() != 0 and not lift.done:
        lift.failure = lift.line.removeprefix("loci: ")


def _selection(image: Image.Image, asked: dict[str, Any]) -> list[str]:
    width, height = image.size
    if "point" in asked:
        x, y = (float(value) for value in asked["point"])
        if not (0 <= x < 1 and 0 <= y < 1):
            raise LociError("point: outside the picture")
        return ["--point", str(round(x * width)), str(round(y * height))]
    left, top, right, bottom = (float(value) for value in asked["box"])
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise LociError("box: expected left < right and top < bottom, inside the picture")
    box = [round(left * width), round(top * height), round(right * width), round(bottom * height)]
    if box[2] - box[0] < MIN_BOX or box[3] - box[1] < MIN_BOX:
        raise LociError(f"box: smaller than {MIN_BOX} pixels, drag a larger one")
    return ["--box", *map(str, box)]
