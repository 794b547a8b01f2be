"""One WebSocket: keys in, frames out.

In: JSON text of at most 64 kB, `{"type": ...}`. Out: JSON text for states, and binary for frames:
a little-endian header (first frame, number of frames, key message answered, seconds since their
chunk was begun or 0 for the frame where a walk goes on), then for each frame its length and a JPEG.
Frames from `first` on replace those sent before. The client says what it has painted; where it says
nothing, nothing is generated.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from starlette.websockets import WebSocket, WebSocketDisconnect

from loci.app.play.memory_map import memory_map
from loci.app.play.player import Shown
from loci.app.play.sessions import Session, Sessions
from loci.app.play.timeline import parting
from loci.errors import LociError

MOST_MESSAGE = 65536
QUALITY = 90
BUSY_SECONDS = 1.0


class Connection:
    """Serves one player until the socket closes; the session stays, to be connected to again."""

    def __init__(self, socket: WebSocket, sessions: Sessions) -> None:
        self.socket, self.sessions = socket, sessions
        self.session: Session | None = None
        self.sending = asyncio.Lock()

    async def serve(self) -> None:
        """From hello to goodbye."""
        known: str | None = None
        try:
            hello = await self.receive()
            known = hello.get("session") or None
            await self.tell("loading")
            await self.sessions.ready.wait()
            if self.sessions.failure:
                await self.tell("failed", why=self.sessions.failure)
                return
            known = await self._enter(known)
            session = self.session
            assert session is not None
            session.connections += 1
            await self.tell_session()
            await asyncio.gather(self._listen(), self._play())
        except (WebSocketDisconnect, RuntimeError, ConnectionError):
            pass
        except Exception as error:
            with contextlib.suppress(Exception):
                await self.tell("failed", why=str(error))
            if not isinstance(error, LociError):
                raise
        finally:
            if self.session is not None:
                session = self.session
                session.connections -= 1
                session.left_at = time.monotonic()
                session.player.press("", session.player.keys_id, -1)
                async with session.lock:
                    await self.sessions.run(session.autosave, time.monotonic(), True)
            elif known:
                self.sessions.leave(known)

    async def _enter(self, known: str | None) -> str:
        ticket = known or base64.b16encode(np.random.bytes(8)).decode().lower()
        while True:
            found = await self.sessions.enter(ticket)
            if isinstance(found, Session):
                self.session = found
                return found.id
            await self.tell("busy", place=found)
            await asyncio.sleep(BUSY_SECONDS)

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises WebSocketDisconnect for what is no JSON object."""
        text = await self.socket.receive_text()
        try:
            message = json.loads(text) if len(text) <= MOST_MESSAGE else None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            await self.socket.close(1009 if len(text) > MOST_MESSAGE else 1003)
            raise WebSocketDisconnect
        return message

    async def tell(self, what: str, **content: Any) -> None:
        """Send a JSON message."""
        async with self.sending:
            await self.socket.send_text(json.dumps({"type": what, **content}))

    async def show(self, shown: Shown) -> None:
        """Send frames."""
        parts = [struct.pack("<IHId", shown.first, len(shown.frames), shown.keys_id, shown.seconds)]
        for pixels in shown.frames:
            data = jpeg(Image.fromarray(pixels))
            parts += [struct.pack("<I", len(data)), data]
        async with self.sending:
            await self.socket.send_bytes(b"".join(parts))

    async def tell_session(self) -> None:
        """Where the session stands, and the frame to begin with."""
        session = self.session
        assert session is not None
        player = session.player
        world, timeline = session.world, player.timeline
        await self.tell(
            "ready",
            session=session.id,
            fps=world.fps,
            chunk=world.chunk,
            size=list(timeline.frame(0).size),
            speed=world.preset.name,
            seed=timeline.state.seed,
            text=world.text_encoder is not None,
            turn_degrees=_degrees(world),
            branches=sorted(session.branches),
            active=session.active,
        )
        async with session.lock:
            await self.show(player.go_to(timeline.moment))
            await self.tell("memory", **memory_map(player))

    async def _listen(self) -> None:
        session = self.session
        assert session is not None
        while True:
            message = await self.receive()
            handler = HANDLERS.get(str(message.get("type")))
            if handler is None:
                await self.tell("error", why=f"unknown message {message.get('type')!r}")
                continue
            try:
                await handler(self, session, message)
            except (LociError, KeyError, TypeError, ValueError) as error:
                await self.tell("error", why=str(error))

    async def _play(self) -> None:
        session = self.session
        assert session is not None
        while True:
            async with session.lock:
                player = session.player
                shown = await self.sessions.run(player.act)
                if shown is not None and len(shown.frames):
                    await self.show(shown)
                if shown is not None and player.pending is not None and player.pending.decoded:
                    await self.tell("memory", **memory_map(player))
                    await self.sessions.run(session.autosave, time.monotonic())
            if shown is None:
                session.changed.clear()
                if session.player.due() is None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(2.0):
                            await session.changed.wait()
                            continue
                    async with session.lock:
                        idle = session.player.last - session.player.painted <= 0
                        await self.sessions.run(session.autosave, time.monotonic(), idle)


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
            moment = max(0, now - int(message["undo"]))
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


def _degrees(world: Any) -> float | None:
    scale = world.config.action_scale
    return None if scale is None else round(float(np.degrees(scale.turn)), 3)
