"""What a page asks for over its WebSocket, each kind of message with what it does."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image

from loci.app.play.memory_map import memory_map
from loci.errors import LociError

if TYPE_CHECKING:
    from loci.app.play.connection import Connection
    from loci.app.play.sessions import Session

QUALITY = 90


async def _keys(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    session.player.press(str(message["keys"])[:16], int(message["id"]), int(message["painted"]))
    session.changed.set()


async def _painted(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    session.player.paint(int(message["frame"]))
    session.changed.set()


async def _go_to(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    async with session.lock:
        player = session.player
        if "undo" in message:
            now = player.timeline.moment + (player.pending is not None)
            moment = max(player.timeline.earliest, now - int(message["undo"]))
        else:
            moment = int(message["moment"])
        shown = await connection.sessions.run(player.go_to, moment)
        await connection.show(shown)
        await connection.tell("moment", frame=shown.first, moment=moment)
        await connection.tell("memory", **memory_map(player))


async def _peek(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    turns = int(message["turns"])
    if not 1 <= abs(turns) <= 48:
        raise LociError(f"peek: {turns} frames, expected 1 to 48 to the left or right")
    async with session.lock:
        frames = await connection.sessions.run(session.player.peek, turns)
    pictures = [base64.b64encode(jpeg(Image.fromarray(f))).decode() for f in frames]
    await connection.tell("peek", turns=turns, frames=pictures)


async def _fork(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    async with session.lock:
        session.active = await connection.sessions.fork(session)
    await connection.tell_session()


async def _branch(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    name = str(message["name"])
    if name not in session.branches:
        raise LociError(f"branch {name!r}: expected one of {', '.join(session.branches)}")
    async with session.lock:
        await connection.sessions.run(session.player.settle)
        session.active = name
    await connection.tell_session()


async def _compare(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    from loci.app.play.timeline import parting

    names = [session.active, str(message["name"])]
    if names[1] not in session.branches:
        raise LociError(f"branch {names[1]!r}: expected one of {', '.join(session.branches)}")
    async with session.lock:
        await connection.sessions.run(session.player.settle)
        timelines = [session.branches[name].timeline for name in names]
        part = parting(*timelines)
    lengths = [timeline.length for timeline in timelines]
    await connection.tell("compare", branches=names, lengths=lengths, part=part)


async def _restart(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    seed, speed = message.get("seed"), message.get("speed")
    async with session.lock:
        await connection.sessions.restart(
            session,
            None,
            None if seed is None else int(seed),
            None if speed is None else str(speed),
        )
    await connection.tell_session()


async def _picture(connection: Connection, session: Session, message: dict[str, Any]) -> None:
    await connection.tell_session()


HANDLERS: dict[str, Callable[[Connection, Session, dict[str, Any]], Any]] = {
    "keys": _keys,
    "painted": _painted,
    "go_to": _go_to,
    "peek": _peek,
    "fork": _fork,
    "branch": _branch,
    "compare": _compare,
    "restart": _restart,
    "picture": _picture,
}


def jpeg(image: Image.Image) -> bytes:
    """A frame as a JPEG of quality 90, 4:4:4: about 1 kB for 64 pixels a side."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
