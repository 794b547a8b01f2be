"""A walk in progress: its committed frames and actions on disk, its states in memory.

Frames live in a folder as losslessly compressed PNGs in one file, so memory does not grow with the
length of a walk and an undo only cuts the file. States are immutable and small (about 300 kB for
the shipped world): the last `DENSE` chunks keep theirs, older ones keep every few, so a walk can
jump back to any earlier chunk by replaying at most a few chunks.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from loci.actions import MOVES, VIEWS
from loci.errors import LociError
from loci.io.files import replacing
from loci.io.video import VideoWriter
from loci.world.walk_file import load_walk, save_walk
from loci.world.world import WalkState, World

DENSE, MOST_STATES = 64, 200
FRAMES, INDEX, WALK = "frames.bin", "index.json", "walk.loci"
VERSION = 1

Frames = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True)
class Chunk:
    """A committed chunk: how many frames the walk has after it, and where it ends in the file."""

    frames: int
    end: int


class Timeline:
    """Committed chunks of one walk, in a folder of its own.

    `states[k]` is the walk after k chunks, `states[0]` the start picture; older ones are thinned
    out. Everything that is written is enough to go on after a crash: `frames.bin`, and
    `index.json` beside the walk's state in `walk.loci`.
    """

    def __init__(self, folder: Path, world: World, state: WalkState, first: Frames) -> None:
        self.folder, self.world = folder, world
        self.states: dict[int, WalkState] = {0: state}
        self.chunks: list[Chunk] = []
        self.actions: list[tuple[int, int]] = []
        self.offsets: list[int] = [0]
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / FRAMES, "w+b")  # noqa: SIM115 - open as long as the walk
        self._append(first)
        self.chunks.append(Chunk(1, self.offsets[-1]))

    @property
    def length(self) -> int:
        """Committed frames, the start picture included."""
        return self.chunks[-1].frames

    @property
    def moment(self) -> int:
        """Committed chunks."""
        return len(self.chunks) - 1

    @property
    def state(self) -> WalkState:
        """The walk after the last committed chunk."""
        return self.states[self.moment]

    def commit(self, state: WalkState, actions: Int[np.ndarray, "n 2"], frames: Frames) -> None:
        """Add one chunk."""
        self._append(frames)
        self.actions += [(int(move), int(view)) for move, view in actions]
        self.chunks.append(Chunk(self.length + len(frames), self.offsets[-1]))
        self.states[self.moment] = state
        self._thin()

    def go_to(self, moment: int) -> None:
        """Forget all chunks after `moment`; replays from an older state where that was thinned out.

        Raises:
            LociError: for a moment that is not in the walk.
        """
        if not 0 <= moment <= self.moment:
            raise LociError(f"moment {moment}: expected 0 to {self.moment}")
        state = self.state_at(moment)
        self.states = {k: s for k, s in self.states.items() if k <= moment}
        self.states[moment] = state
        del self.chunks[moment + 1 :]
        del self.actions[self.length - 1 :]
        del self.offsets[self.length + 1 :]
        self._file.truncate(self.offsets[-1])

    def state_at(self, moment: int) -> WalkState:
        """The walk after a number of chunks."""
        known = max(k for k in self.states if k <= moment)
        state = self.states[known]
        for k in range(known, moment):
            first, last = self.chunks[k].frames - 1, self.chunks[k + 1].frames - 1
            _, state = self.world.step(state, np.array(self.actions[first:last]))
        return state

    def frame(self, number: int) -> Image.Image:
        """One committed frame, as a picture.

        Raises:
            LociError: for a frame that is not in the walk.
        """
        if not 0 <= number < self.length:
            raise LociError(f"frame {number}: expected 0 to {self.length - 1}")
        start, end = self.offsets[number : number + 2]
        self._file.seek(start)
        return Image.open(io.BytesIO(self._file.read(end - start)))

    def fork(self, folder: Path) -> Timeline:
        """A second walk with the same past, in another folder."""
        self._file.flush()
        folder.mkdir(parents=True)
        shutil.copyfile(self.folder / FRAMES, folder / FRAMES)
        other = object.__new__(Timeline)
        other.folder, other.world, other.states = folder, self.world, dict(self.states)
        other.chunks, other.actions = list(self.chunks), list(self.actions)
        other.offsets = list(self.offsets)
        other._file = open(folder / FRAMES, "r+b")  # noqa: SIM115
        return other

    def save(self) -> None:
        """Write all that `restore` needs. What is committed later is lost on a crash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        save_walk(self.folder / WALK, self.state, self.world)
        index = {
            "version": VERSION,
            "chunks": [[chunk.frames, chunk.end] for chunk in self.chunks],
            "offsets": self.offsets,
            "actions": self.actions,
        }
        with replacing(self.folder / INDEX) as draft:
            draft.write_text(json.dumps(index), encoding="utf-8")

    @classmethod
    def restore(cls, folder: Path, world: World) -> Timeline:
        """The walk last saved in a folder.

        Its states of before are gone; jumping back replays from the nearest one that is known,
        so `go_to` reaches back to the moment it was saved at.

        Raises:
            LociError: when the folder holds no walk, or one of another world.
        """
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if index["version"] != VERSION:
                raise ValueError(f"version {index['version']}")
            chunks = [Chunk(*map(int, chunk)) for chunk in index["chunks"]]
            actions = [(int(move), int(view)) for move, view in index["actions"]]
            offsets = [int(offset) for offset in index["offsets"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LociError(f"{folder}: no autosaved walk that can be read") from error
        self = object.__new__(cls)
        self.folder, self.world = folder, world
        self.chunks, self.actions, self.offsets = chunks, actions, offsets
        self.states = {self.moment: load_walk(folder / WALK, world)}
        self._file = open(folder / FRAMES, "r+b")  # noqa: SIM115
        self._file.truncate(offsets[-1])
        return self

    def write_video(self, path: Path, scale: int = 1) -> None:
        """All committed frames as an MP4."""
        with VideoWriter(path, fps=self.world.fps, scale=scale) as video:
            for number in range(self.length):
                video.write(np.asarray(self.frame(number).convert("RGB"))[None])

    def action_list(self) -> list[dict[str, str]]:
        """All committed actions in the published file format, one per generated frame."""
        return [{"move": MOVES[move], "view": VIEWS[view]} for move, view in self.actions]

    def close(self) -> None:
        """Let the file go; it stays where it is."""
        self._file.close()

    def _append(self, frames: Frames) -> None:
        self._file.seek(self.offsets[-1])
        for pixels in frames:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
            self._file.write(buffer.getvalue())
            self.offsets.append(self._file.tell())

    def _thin(self) -> None:
        """Keep the last `DENSE` states; of older ones as many as fit, evenly spread."""
        old = sorted(k for k in self.states if k <= self.moment - DENSE)
        if len(self.states) > MOST_STATES:
            for k in old[1::2]:
                del self.states[k]
