"""Held keys to frames: whole chunks on a fixed grid, made again when the keys change midway.

`World.step` is pure, so a chunk that is under way can be replaced: it is generated again from the
same state with the actions already shown plus the new keys, and the frames not yet shown are
exchanged. Keys that change while it is being sampled stop the sampling. Chunks always hold
`world.chunk_frames` actions, standing still where no key is held, so the committed actions give the
same walk in `loci walk`.

A chunk is sampled at once and decoded in pieces, so that its first frame is shown while the others
are still being decoded.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from loci.actions import Action, parse_keys
from loci.app.play.timeline import Timeline
from loci.errors import LociError
from loci.world.world import GeneratedChunk, WalkState, World

TAP = 2  # frames that a key acts at least, however short it was pressed
MARGIN = 1  # frames after the one on the screen that are not exchanged, at least
MAX_REPLACED = 2  # times that a chunk is made again
MAX_STOPPED = 1  # times that sampling is stopped for new keys before a chunk is finished
OPPOSED = ("ws", "ad", "ik", "jl")


class KeysChanged(Exception):
    """Other keys are held than those that the chunk being sampled answers."""


@dataclass(frozen=True)
class Shown:
    """Frames to show, perhaps none, from frame number `first` of the walk on; later ones are void.

    `keys_id` names the key message that these frames answer, `seconds` is the time since their
    chunk was begun.
    """

    first: int
    frames: UInt8[np.ndarray, "n h w 3"]
    keys_id: int
    seconds: float


class Pending:
    """The chunk under way: not committed, since it may still be replaced.

    Args:
        chunk: its latents.
        first: number of its first frame in the walk.
        actions: of all its frames.
        keep: frames at its beginning that were shown from the chunk that it replaces. They are
            decoded last, and not shown again.
        keys_id: of the key message that it answers.
        replaced: how often the chunk was made before.
        began: when, in seconds.
    """

    def __init__(
        self,
        chunk: GeneratedChunk,
        first: int,
        actions: Int[np.ndarray, "n 2"],
        keep: int,
        keys_id: int,
        replaced: int,
        began: float,
    ) -> None:
        self.chunk, self.first, self.actions = chunk, first, actions
        self.keep, self.keys_id, self.replaced, self.began = keep, keys_id, replaced, began
        self.shown: list[UInt8[np.ndarray, "n h w 3"]] = []
        self.hidden: UInt8[np.ndarray, "n h w 3"] | None = None

    @property
    def decoded(self) -> bool:
        """Whether all its frames are."""
        return self.hidden is not None

    @property
    def sent(self) -> int:
        """Frames at its beginning that were shown, from it or from the chunk that it replaces."""
        return self.keep + sum(len(part) for part in self.shown)

    def decode(self) -> Shown:
        """Decode some more frames: the first, the second, the next two, four, ...; at last those
        that are not shown, which may be none."""
        done = sum(len(part) for part in self.shown)
        start, count = self.keep + done, len(self.actions)
        if start < count:
            frames = self.chunk.frames(start, min(start + max(done, 1), count))
            self.shown.append(frames)
        else:
            frames = self.shown[0][:0]
            self.hidden = self.chunk.frames(0, self.keep) if self.keep else frames
            self.chunk.state_after()
        seconds = time.perf_counter() - self.began
        return Shown(self.first + start, frames, self.keys_id, seconds)

    def frames(self) -> UInt8[np.ndarray, "n h w 3"]:
        """All its frames, in order."""
        while self.hidden is None:
            self.decode()
        return np.concatenate([self.hidden, *self.shown])


class Player:
    """One person's walk. One call at a time, except that `act`, `settle` and `go_to` wait for each
    other: a thread cannot be stopped, and may still act when its task was cancelled and the walk is
    saved.

    Args:
        world: at the speed it is played; its stats are this player's.
        timeline: of the walk to go on with.
    """

    def __init__(self, world: World, timeline: Timeline) -> None:
        self.world, self.timeline = world, timeline
        self.keys, self.keys_id, self.tapped = "", 0, ""
        self.painted = timeline.length - 1
        self.pending: Pending | None = None
        self.first_seconds = 0.0
        self.stopped = 0
        self._changing = threading.RLock()

    @property
    def last(self) -> int:
        """Number of the last frame that was sampled."""
        if self.pending is None:
            return self.timeline.length - 1
        return self.pending.first + len(self.pending.actions) - 1

    @property
    def ahead(self) -> int:
        """Frames not yet painted at which the next chunk is begun: as many as it takes until the
        first of its frames is there."""
        frames = int(np.ceil(self.first_seconds * self.world.fps)) + MARGIN
        return min(frames, self.world.chunk_frames)

    @property
    def margin(self) -> int:
        """Frames after the one on the screen that are not exchanged: they will have been painted
        by the time that the first new frame is there."""
        return max(MARGIN, int(self.first_seconds * self.world.fps))

    def press(self, keys: str, keys_id: int, painted: int) -> None:
        """The full set of keys held, the number of the message, and the newest frame painted."""
        self.keys, self.keys_id = playable(keys, self.world), keys_id
        if self.keys:
            self.tapped = self.keys
        self.paint(painted)

    def paint(self, frame: int) -> None:
        """A frame was painted; the number never falls within a walk, nor passes what was made."""
        self.painted = min(max(self.painted, frame), self.last)

    def due(self) -> str | None:
        """What to do now: "replace" the chunk under way, "decode" more of its frames, "go on" with
        the next one, or None."""
        pending, left = self.pending, self.last - self.painted
        if pending is not None and pending.replaced < MAX_REPLACED and left > self.margin:
            rest = pending.actions[self._keep(pending) :]
            if (rest != _ids(self.keys)).any():
                return "replace"
        if pending is not None and not pending.decoded:
            return "decode"
        if (self.keys or self.tapped) and left <= self.ahead:
            return "go on"
        return None

    def act(self) -> Shown | None:
        """Do a piece of what is due; the frames to show, or None where nothing is due."""
        with self._changing:
            due = self.due()
            if due is None:
                return None
            try:
                if due == "replace":
                    self._replace()
                elif due == "go on":
                    self._go_on()
            except KeysChanged:
                return self.act()
            pending = self.pending
            assert pending is not None
            shown = pending.decode()
            if due != "decode":
                before = self.first_seconds or shown.seconds
                self.first_seconds = 0.7 * before + 0.3 * shown.seconds
            return shown

    def settle(self) -> None:
        """Commit the chunk under way."""
        with self._changing:
            pending = self.pending
            if pending is not None:
                frames = pending.frames()
                self.pending = None
                self.timeline.commit(pending.chunk.state_after(), pending.actions, frames)

    def go_to(self, moment: int) -> Shown:
        """Back to an earlier moment; the chunk under way counts as one. Shows the frame there."""
        with self._changing:
            if self.pending is not None and moment > self.timeline.moment:
                self.settle()
            self.pending = None
            self.timeline.go_to(moment)
        self.keys = self.tapped = ""
        self.painted = self.timeline.length - 1
        frame = np.asarray(self.timeline.frame(self.painted).convert("RGB"))[None]
        return Shown(self.painted, frame, self.keys_id, 0.0)

    def peek(self, turns: int) -> UInt8[np.ndarray, "n h w 3"]:
        """What would be seen on turning `turns` frames to the left (right if negative), generated
        from a fork that is thrown away: nothing of it is remembered."""
        state = self.pending.chunk.state_after() if self.pending else self.timeline.state
        parts = []
        left = abs(turns)
        while left:
            count = min(left, self.world.chunk_frames)
            frames, state = self.world.step(state, ("j" if turns > 0 else "l") + f"*{count}")
            parts.append(frames)
            left -= count
        if not parts:
            raise LociError("peek: 0 frames, expected a turn to the left or right")
        return np.concatenate(parts)

    def fork(self, folder: Path) -> Player:
        """A second walk from here on; this one stays as it is."""
        self.settle()
        return Player(self.world, self.timeline.fork(folder))

    def _go_on(self) -> None:
        self.settle()
        held, chunk_frames = self.keys, self.world.chunk_frames
        actions = np.repeat(_ids(held)[None], chunk_frames, axis=0)
        if not held:
            actions[:TAP] = _ids(self.tapped)
        self.tapped = ""
        self._generate(self.timeline.state, self.timeline.length, actions)

    def _keep(self, pending: Pending) -> int:
        """Frames of the chunk under way that are not exchanged any more: all of them were sent."""
        keep = self.painted + self.margin + 1 - pending.first
        return min(max(keep, 0), pending.sent, len(pending.actions) - 1)

    def _replace(self) -> None:
        pending = self.pending
        assert pending is not None
        keep = self._keep(pending)
        actions = pending.actions.copy()
        actions[keep:] = _ids(self.keys)
        if not self.keys and self.tapped and (pending.actions[:keep] == 0).all():
            actions[keep : keep + TAP] = _ids(self.tapped)
        self.tapped = ""
        before = pending.chunk.state_before
        self._generate(before, pending.first, actions, keep, pending.replaced + 1)

    def _generate(
        self,
        state: WalkState,
        first: int,
        actions: Int[np.ndarray, "n 2"],
        keep: int = 0,
        replaced: int = 0,
    ) -> None:
        began, keys_id, keys = time.perf_counter(), self.keys_id, self.keys

        def stop_if_keys_changed(stage: str, step: int, steps: int) -> None:
            if self.keys and self.keys != keys and self.stopped < MAX_STOPPED:
                self.stopped += 1
                raise KeysChanged

        self.world.progress = stop_if_keys_changed
        try:
            chunk = self.world.generate_chunk(state, actions)
        finally:
            self.world.progress = None
        self.stopped = 0
        self.pending = Pending(chunk, first, actions, keep, keys_id, replaced, began)


def playable(keys: str, world: World) -> str:
    """The keys held that the model knows; opposite ones cancel out."""
    held = {key for key in keys.lower() if key in "wsadikjl"}
    for pair in OPPOSED:
        if set(pair) <= held:
            held -= set(pair)
    moves = "".join(key for key in "wsad" if key in held)
    views = "".join(key for key in "ikjl" if key in held)
    config = world.config
    if moves and config.moves and _ids(moves)[0] not in config.moves:
        moves = ""
    while views and config.views and _ids(views)[1] not in config.views:
        views = views[1:]
    return moves + views


def _ids(keys: str) -> Int[np.ndarray, "2"]:
    return np.array(parse_keys(keys)[0] if keys else Action(), np.int64)
