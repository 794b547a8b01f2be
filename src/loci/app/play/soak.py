"""Hours of play at top speed, to see that the memory of the server stays flat.

One player's walk through the sessions, timelines and autosaves of `loci play`, frames encoded as
they are sent, without a socket and without waiting for the clock.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from loci.app.play.memory_map import memory_map
from loci.app.play.messages import jpeg
from loci.app.play.sessions import Session, Sessions
from loci.errors import LociError

if TYPE_CHECKING:
    from loci.app.play.player import Player
    from loci.world.world import World

HELD = ("w", "wj", "wl", "j", "l", "s")
UNDO_EVERY = 500  # chunks
ROW_HOURS = 0.5

Row = tuple[float, int, float, float]
"""Hours of play, frames generated, resident megabytes, megabytes on disk."""


def play_for(
    load: Callable[[], World],
    picture: Any,
    hours: float,
    speed: str = "faster",
    told: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """A row for every half hour of play (at least eight), and one for the end.

    Keys change every few chunks; now and then some chunks are undone, and a peek turns aside.

    Args:
        load: loads the world.
        picture: to begin in, as `World.start` takes it.
        hours: how long is played, at the world's frames a second.
        speed: speed preset.
        told: called with every row when it is there.

    Raises:
        LociError: when the world cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="loci-play-") as folder:
        return asyncio.run(_play(load, picture, hours, speed, told, Path(folder)))


async def _play(
    load: Callable[[], World],
    picture: Any,
    hours: float,
    speed: str,
    told: Callable[[Row], None],
    folder: Path,
) -> list[Row]:
    sessions = Sessions(load, picture, folder, 0, speed, 1, threads=1)
    await sessions.load()
    if sessions.failure:
        raise LociError(sessions.failure)
    session = await sessions.enter(None)
    assert isinstance(session, Session)
    world, keys, rows = session.world, random.Random(0), []
    chunks = max(1, round(hours * 3600 * world.fps / world.chunk_frames))
    count = max(8, round(hours / ROW_HOURS))
    at = {round(chunks * (k + 1) / count) for k in range(count)}
    for done in range(1, chunks + 1):
        if done % 3 == 1:
            session.player.press(keys.choice(HELD), done, session.player.last)
        await sessions.run(_chunk, session.player)
        await sessions.run(session.autosave, done * world.chunk_frames / world.fps)
        if done % UNDO_EVERY == 0:
            await sessions.run(session.player.peek, world.chunk_frames)
            moment = max(0, session.player.timeline.moment - keys.randrange(3, 90))
            await sessions.run(session.player.go_to, moment)
            session.player.press("w", done, session.player.last)
        if done in at:
            frames = done * world.chunk_frames
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            row = (frames / world.fps / 3600, frames, resident() / 2**20, size / 2**20)
            rows.append(row)
            told(row)
    await sessions.close()
    return rows


def _chunk(player: Player) -> None:
    """One chunk, painted as it comes."""
    while (shown := player.act()) is not None:
        for pixels in shown.frames:
            jpeg(Image.fromarray(pixels))
        if player.pending is not None and player.pending.decoded:
            memory_map(player)
            break
    player.paint(player.last)


def resident() -> float:
    """Bytes of memory this process has resident (on Linux; the peak elsewhere)."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
