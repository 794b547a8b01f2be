"""The walks of a server: who plays, who waits, and what is on disk.

What needs torch is imported by the thread that loads the world, so that the page is there at once.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loci.app.play import WALK
from loci.errors import LociError

if TYPE_CHECKING:
    from loci.app.play.connection import Connection
    from loci.app.play.player import Player
    from loci.world.world import World

R = TypeVar("R")
SAVE_SECONDS = 4.0
"""At most this much of a walk is lost when the process is killed, and the chunk under way."""
IDLE_SECONDS = 900.0
"""A session that nobody is connected to is closed after this time; its walk stays on disk."""
BRANCHES = "abcdefgh"
MAX_BRANCHES = len(BRANCHES)
"""Each keeps up to 200 states, of about 1.2 MB in the shipped world."""
AWAY_SECONDS = 15.0
"""The same where others wait for a place: longer than a page takes to reconnect."""


@dataclass
class Session:
    """One person's branches of a walk; `lock` is held by whoever uses its players."""

    id: str
    folder: Path
    world: World
    picture: Any
    branches: dict[str, Player] = field(default_factory=dict)
    active: str = "a"
    connections: int = 0
    holder: Connection | None = None
    left_at: float = field(default_factory=time.monotonic)
    saved_at: float = 0.0
    closed: bool = False
    saved: tuple[str, int] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def player(self) -> Player:
        """The branch that is played."""
        return self.branches[self.active]

    def autosave(self, now: float, settle: bool = False) -> None:
        """Write the walk, if it changed and the last time is long enough ago (or `settle`)."""
        player = self.player
        if self.closed:
            return
        if settle:
            player.settle()
        state = (self.active, player.timeline.moment)
        if state != self.saved and (settle or now - self.saved_at >= SAVE_SECONDS):
            player.timeline.save()
            self.saved, self.saved_at = state, now

    def close(self) -> None:
        """Save, and let all files go."""
        self.autosave(time.monotonic(), settle=True)
        self.closed = True
        for player in self.branches.values():
            player.timeline.close()


class Sessions:
    """All sessions of a server, at most `most` at a time.

    Args:
        load: loads the world; called once, in a thread of the pool.
        start: the start picture, as `World.start` takes it.
        folder: where walks are kept, one folder each, named by the server.
        most: sessions played at a time; others wait.
        threads: chunks generated at a time.
        resume: a saved walk that new sessions go on with, instead of the start picture.
    """

    def __init__(
        self,
        load: Callable[[], World],
        start: Any,
        folder: Path,
        seed: int | None,
        speed: str,
        most: int,
        threads: int,
        resume: Path | None = None,
    ) -> None:
        self._load, self.picture, self.folder = load, start, folder
        self.seed, self.speed, self.most, self.resume = seed, speed, most, resume
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="walk")
        self.world: World | None = None
        self.failure: str | None = None
        self.ready = asyncio.Event()
        self.open: dict[str, Session] = {}
        self.waiting: list[str] = []

    async def load(self) -> None:
        """Load the world; `ready` is set afterwards, with `failure` where it could not be."""
        try:
            self.world = await self.run(self._load)
        except Exception as error:
            self.failure = str(error)
            print(f"loci: {error}", file=sys.stderr, flush=True)
            if not isinstance(error, LociError):
                raise
        finally:
            self.ready.set()

    async def run(self, work: Callable[..., R], *arguments: Any) -> R:
        """Run something slow in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)

    async def enter(self, known: str | None) -> Session | int:
        """The session of an id the server gave out, or a new one; or a place in the queue."""
        await self.ready.wait()
        if known in self.open:
            return self.open[known]
        await self.sweep()
        ticket = known or ""
        if len(self.open) >= self.most:
            if ticket not in self.waiting:
                self.waiting.append(ticket)
            return self.waiting.index(ticket) + 1
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        elif self.waiting and len(self.open) + len(self.waiting) >= self.most:
            self.waiting.append(ticket)
            return len(self.waiting)
        session = await self.run(self._new, known)
        self.open[session.id] = session
        return session

    async def restart(
        self,
        session: Session,
        picture: Any = None,
        seed: int | None = None,
        speed: str | None = None,
    ) -> None:
        """Begin a new walk in a session, from a picture, seed and speed.

        Raises:
            LociError: for a picture, seed or speed that the world refuses; the old walk goes on.
        """
        picture = session.picture if picture is None else picture
        await self.run(self._begin, session, picture, seed, speed)

    async def go_on(self, session: Session, walk: Path) -> None:
        """Go on with a saved walk in a session.

        Raises:
            LociError: for what is no walk, or one of another world; the old walk goes on.
        """
        await self.run(self._begin, session, session.picture, None, None, walk)

    async def fork(self, session: Session) -> str:
        """Add a branch to a session, from where it stands; returns its name.

        Raises:
            LociError: when there are `MAX_BRANCHES`.
        """
        if len(session.branches) >= MAX_BRANCHES:
            raise LociError(f"fork: there are {MAX_BRANCHES} branches, start a new walk for more")
        name = BRANCHES[len(session.branches)]
        player = await self.run(session.player.fork, self._branch_folder(session, name))
        session.branches[name] = player
        return name

    async def sweep(self) -> None:
        """Close sessions that were left for long; sooner where somebody wants their place."""
        now = time.monotonic()
        patience = IDLE_SECONDS if len(self.open) < self.most else AWAY_SECONDS
        for session in list(self.open.values()):
            if not session.connections and now - session.left_at > patience:
                del self.open[session.id]
                async with session.lock:
                    await self.run(session.close)

    def leave(self, ticket: str) -> None:
        """Give up a place in the queue."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)

    async def close(self) -> None:
        """Save everything; nothing is lost."""
        for session in self.open.values():
            async with session.lock:
                await self.run(session.close)
        self.pool.shutdown(wait=True)

    def _new(self, known: str | None) -> Session:
        from loci.app.play.player import Player
        from loci.app.play.timeline import Timeline

        assert self.world is not None
        world = self.world.at_speed(self.speed)
        if known and _is_id(known) and (self.folder / known / "a" / WALK).is_file():
            session = Session(known, self.folder / known, world, self.picture)
            timeline = Timeline.restore(session.folder / "a", world)
            session.branches["a"] = Player(world, timeline)
            return session
        identity = secrets.token_hex(8)
        session = Session(identity, self.folder / identity, world, self.picture)
        self._begin(session, self.picture, self.seed, self.speed)
        return session

    def _begin(
        self,
        session: Session,
        picture: Any,
        seed: int | None,
        speed: str | None,
        resume: Path | None = None,
    ) -> None:
        from loci.app.play.player import Player
        from loci.app.play.timeline import Timeline
        from loci.world.walk_file import load_walk

        assert self.world is not None
        world = session.world if speed is None else self.world.at_speed(speed)
        seed = self.seed if seed is None else seed
        if not session.branches:
            resume = self.resume
        state = world.start(picture, seed=seed) if resume is None else load_walk(resume, world)
        first = world.newest_frame(state)[None]
        for player in session.branches.values():
            player.timeline.close()
        shutil.rmtree(session.folder, ignore_errors=True)
        timeline = Timeline(self._branch_folder(session, "a"), world, state, first)
        session.branches, session.active = {"a": Player(world, timeline)}, "a"
        session.world, session.picture, session.saved = world, picture, None

    def _branch_folder(self, session: Session, name: str) -> Path:
        return session.folder / name


def _is_id(text: str) -> bool:
    return len(text) == 16 and all(letter in "0123456789abcdef" for letter in text)
