"""A walk in progress: its committed frames and actions on disk, its states in memory.

Frames live in one file as lossless PNGs, so memory does not grow with the length of a walk, and an
undo only cuts the file. States are immutable and small (about 1.2 MB for the shipped world): the
last `DENSE` chunks keep theirs, older ones are thinned out, and a walk jumps back to any earlier
chunk by replaying from the nearest state that is left.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
from array import array
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from loci.actions import MOVES, VIEWS
from loci.app.play import WALK
from loci.app.walk.saved_walk import SavedWalk
from loci.errors import LociError
from loci.io.video import VideoWriter
from loci.world.walk_file import load_walk, save_walk
from loci.world.world import WalkState, World

DENSE, MAX_STATES = 64, 200
FRAMES = "frames.bin"
RECORD = struct.Struct("<IBBB")
"""In front of every PNG: its length, the move and the view that led to it, whether a chunk ends."""

Frames = UInt8[np.ndarray, "n h w 3"]


class Timeline:
    """Committed chunks of one walk, in a folder of its own.

    `states[k]` is the walk after k chunks, `states[0]` the start picture; older ones are thinned
    out. `frames.bin` and `walk.loci` are enough to go on after a crash. A walk that was resumed
    from a saved one begins with its newest frame; `skipped` frames came before that, and are not
    here.
    """

    def __init__(self, folder: Path, world: World, state: WalkState, first: Frames) -> None:
        self._open(folder, world, {0: state}, state.frame_count - 1, "w+b")
        self._append(np.zeros((1, 2), np.int64), first)

    def _open(
        self, folder: Path, world: World, states: dict[int, WalkState], skipped: int, mode: str
    ) -> None:
        self.folder, self.world, self.states, self.skipped = folder, world, states, skipped
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / FRAMES, mode)  # noqa: SIM115 - open as long as the walk
        self._ends = array("Q", [0])  # of every frame in the file
        self._chunks = array("Q")  # frames of the walk after every chunk
        self._actions = bytearray()  # move and view that led to every frame

    @property
    def length(self) -> int:
        """Committed frames, the start picture included."""
        return self._chunks[-1]

    @property
    def moment(self) -> int:
        """Committed chunks."""
        return len(self._chunks) - 1

    @property
    def earliest(self) -> int:
        """The first moment that can be returned to: 0, or where the walk was last restored."""
        return min(self.states)

    @property
    def state(self) -> WalkState:
        """The walk after the last committed chunk."""
        return self.states[self.moment]

    def end(self, moment: int) -> int:
        """Frames of the walk after a number of chunks."""
        return self._chunks[moment]

    def commit(self, state: WalkState, actions: Int[np.ndarray, "n 2"], frames: Frames) -> None:
        """Add one chunk."""
        self._append(actions, frames)
        self.states[self.moment] = state
        self._thin()

    def go_to(self, moment: int) -> None:
        """Forget all chunks after `moment`; replays from an older state where that was thinned out.

        Raises:
            LociError: for a moment that is not in the walk, or whose state is not kept.
        """
        if not self.earliest <= moment <= self.moment:
            raise LociError(f"moment {moment}: expected {self.earliest} to {self.moment}")
        state = self.state_at(moment)
        self.states = {k: s for k, s in self.states.items() if k <= moment}
        self.states[moment] = state
        del self._chunks[moment + 1 :]
        del self._actions[2 * self.length :]
        del self._ends[self.length + 1 :]
        self._file.truncate(self._ends[-1])

    def state_at(self, moment: int) -> WalkState:
        """The walk after a number of chunks."""
        known = max(k for k in self.states if k <= moment)
        state = self.states[known]
        for k in range(known, moment):
            _, state = self.world.step(state, self.actions(self._chunks[k], self._chunks[k + 1]))
        return state

    def frame(self, number: int) -> Image.Image:
        """One committed frame, as a picture.

        Raises:
            LociError: for a frame that is not in the walk.
        """
        if not 0 <= number < self.length:
            raise LociError(f"frame {number}: expected 0 to {self.length - 1}")
        start, end = self._ends[number] + RECORD.size, self._ends[number + 1]
        self._file.seek(start)
        return Image.open(io.BytesIO(self._file.read(end - start)))

    def actions(self, start: int = 1, stop: int | None = None) -> Int[np.ndarray, "n 2"]:
        """Move and view ids that led to frames `start` to `stop` (exclusive; all by default)."""
        stop = self.length if stop is None else stop
        ids = np.frombuffer(bytes(self._actions[2 * start : 2 * stop]), np.uint8)
        return ids.reshape(-1, 2).astype(np.int64)

    def fork(self, folder: Path) -> Timeline:
        """A second walk with the same past, in another folder."""
        self._file.flush()
        folder.mkdir(parents=True)
        shutil.copyfile(self.folder / FRAMES, folder / FRAMES)
        other = object.__new__(Timeline)
        other._open(folder, self.world, dict(self.states), self.skipped, "r+b")
        other._ends, other._chunks = self._ends[:], self._chunks[:]
        other._actions = self._actions[:]
        return other

    def save(self) -> None:
        """Write all that `restore` needs. What is committed later is lost in a crash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        save_walk(self.folder / WALK, self.state, self.world, skipped=self.skipped)

    @classmethod
    def restore(cls, folder: Path, world: World) -> Timeline:
        """The walk last saved in a folder, at the moment it was saved.

        Its earlier states are gone: it goes on, and back to what is walked from now on.

        Raises:
            LociError: when the folder holds no walk, a damaged one, or one of another world.
        """
        if not (folder / WALK).is_file() or not (folder / FRAMES).is_file():
            raise LociError(f"{folder}: no autosaved walk")
        state = load_walk(folder / WALK, world)
        self = object.__new__(cls)
        skipped = SavedWalk.read(folder / WALK).skipped
        self._open(folder, world, {}, skipped, "r+b")
        while len(self._ends) <= state.frame_count - skipped:
            header = self._file.read(RECORD.size)
            if len(header) < RECORD.size:
                raise LociError(f"{folder / FRAMES}: damaged, frames are missing")
            length, move, view, last = RECORD.unpack(header)
            self._ends.append(self._file.seek(length, os.SEEK_CUR))
            self._actions += bytes((move, view))
            if last:
                self._chunks.append(len(self._ends) - 1)
        self._file.truncate(self._ends[-1])
        self.states[self.moment] = state
        return self

    def write_video(self, path: Path, scale: int = 1) -> None:
        """All committed frames as an MP4."""
        with VideoWriter(path, fps=self.world.fps, scale=scale) as video:
            for number in range(self.length):
                video.write(np.asarray(self.frame(number).convert("RGB"))[None])

    def action_list(self) -> list[dict[str, str]]:
        """All committed actions in the published file format, one per generated frame."""
        return [{"move": MOVES[move], "view": VIEWS[view]} for move, view in self.actions()]

    def close(self) -> None:
        """Let the file go; it stays where it is."""
        self._file.close()

    def _append(self, actions: Int[np.ndarray, "n 2"], frames: Frames) -> None:
        self._file.seek(self._ends[-1])
        for number, ((move, view), pixels) in enumerate(zip(actions, frames, strict=True), start=1):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
            data = buffer.getvalue()
            self._file.write(RECORD.pack(len(data), move, view, number == len(frames)))
            self._file.write(data)
            self._ends.append(self._file.tell())
            self._actions += bytes((int(move), int(view)))
        self._chunks.append(len(self._ends) - 1)

    def _thin(self) -> None:
        """Keep the last `DENSE` states; of older ones as many as fit, evenly spread."""
        if len(self.states) > MAX_STATES:
            old = sorted(k for k in self.states if k <= self.moment - DENSE)
            for k in old[1::2]:
                del self.states[k]


def parting(one: Timeline, other: Timeline) -> int:
    """The first frame in which two branches of a walk may differ: that of the first chunk whose
    actions are not the same, or the end of the shorter one."""
    chunk_frames = one.world.chunk_frames
    count = min(one.length, other.length)
    for start in range(1, count, chunk_frames):
        stop = min(start + chunk_frames, count)
        if (one.actions(start, stop) != other.actions(start, stop)).any():
            return start
    return count
