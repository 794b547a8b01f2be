"""Held keys to frames: whole chunks on a fixed grid, made again when the keys change midway.

`World.step` is pure, so a chunk that is under way can be replaced: it is generated again from the
same state with the actions already shown plus the new keys, and the frames not yet shown are
exchanged. Chunks always hold `world.chunk` actions, standing still where no key is held, so the
committed actions give the same walk in `loci walk`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from loci.actions import Action, parse_keys
from loci.app.play.timeline import Timeline
from loci.errors import LociError
from loci.world.world import WalkState, World

TAP = 2  # frames that a key acts at least, however short it was pressed
MARGIN = 1  # frames after the one on the screen that are not exchanged: they are about to be shown
OPPOSED = ("ws", "ad", "ik", "jl")


@dataclass(frozen=True)
class Shown:
    """Frames to show, from frame number `first` of the walk on; later ones are void.

    `keys_id` names the key message that these frames answer.
    """

    first: int
    frames: UInt8[np.ndarray, "n h w 3"]
    keys_id: int
    seconds: float


@dataclass(frozen=True)
class Pending:
    """The chunk under way: not committed, since it may still be replaced."""

    before: WalkState
    after: WalkState
    first: int
    actions: Int[np.ndarray, "n 2"]
    frames: UInt8[np.ndarray, "n h w 3"]
    replaced: bool = False


class Player:
    """One person's walk. Not thread-safe: one call at a time.

    Args:
        world: at the speed it is played; its stats are this player's.
        timeline: of the walk to go on with.
    """

    def __init__(self, world: World, timeline: Timeline) -> None:
        self.world, self.timeline = world, timeline
        self.keys, self.keys_id, self.tapped = "", 0, ""
        self.painted = timeline.length - 1
        self.pending: Pending | None = None
        self.step_seconds = 0.0

    @property
    def last(self) -> int:
        """Number of the last frame that was generated."""
        if self.pending is None:
            return self.timeline.length - 1
        return self.pending.first + len(self.pending.frames) - 1

    @property
    def ahead(self) -> int:
        """Frames not yet painted at which the next chunk is begun: as many as it takes to make."""
        frames = int(np.ceil(self.step_seconds * self.world.fps)) + MARGIN
        return min(frames, self.world.chunk)

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
        """What to do now: "replace" the chunk under way, "go on" with the next one, or None."""
        pending, left = self.pending, self.last - self.painted
        wanted = _ids(self.keys)
        if pending is not None and not pending.replaced and left > MARGIN:
            changes_at = self.painted + MARGIN + 1 - pending.first
            if changes_at < len(pending.actions) and (pending.actions[changes_at:] != wanted).any():
                return "replace"
        if (self.keys or self.tapped) and left <= self.ahead:
            return "go on"
        return None

    def act(self) -> Shown | None:
        """Do what is due; the frames to show, or None. Takes as long as a chunk takes."""
        due = self.due()
        if due is None:
            return None
        began, keys_id = time.perf_counter(), self.keys_id
        first = self._replace() if due == "replace" else self._go_on()
        assert self.pending is not None
        seconds = time.perf_counter() - began
        self.step_seconds = (
            seconds if not self.step_seconds else 0.7 * self.step_seconds + 0.3 * seconds
        )
        start = first - self.pending.first
        return Shown(first, self.pending.frames[start:], keys_id, seconds)

    def settle(self) -> None:
        """Commit the chunk under way."""
        if self.pending is not None:
            pending = self.pending
            self.pending = None
            self.timeline.commit(pending.after, pending.actions, pending.frames)

    def go_to(self, moment: int) -> Shown:
        """Back to an earlier moment; the chunk under way counts as one. Shows the frame there."""
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
        state = self.pending.after if self.pending else self.timeline.state
        parts = []
        left = abs(turns)
        while left:
            count = min(left, self.world.chunk)
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

    def _go_on(self) -> int:
        self.settle()
        held, chunk = self.keys, self.world.chunk
        actions = np.repeat(_ids(held)[None], chunk, axis=0)
        if not held:
            actions[:TAP] = _ids(self.tapped)
        self.tapped = ""
        state = self.timeline.state
        self._make(state, self.timeline.length, actions, replaced=False)
        return self.timeline.length

    def _replace(self) -> int:
        pending = self.pending
        assert pending is not None
        keep = max(self.painted + MARGIN + 1 - pending.first, 0)
        actions = pending.actions.copy()
        actions[keep:] = _ids(self.keys)
        if not self.keys and self.tapped and (pending.actions[:keep] == 0).all():
            actions[keep : keep + TAP] = _ids(self.tapped)
        self.tapped = ""
        self._make(pending.before, pending.first, actions, replaced=True)
        return pending.first + keep

    def _make(
        self, state: WalkState, first: int, actions: Int[np.ndarray, "n 2"], replaced: bool
    ) -> None:
        frames, after = self.world.step(state, actions)
        self.pending = Pending(state, after, first, actions, frames, replaced)


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
