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
import json
import struct
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from starlette.websockets import WebSocket, WebSocketDisconnect

from loci.app.play.memory_map import memory_map
from loci.app.play.messages import HANDLERS, jpeg
from loci.app.play.sessions import Session, Sessions
from loci.errors import LociError

if TYPE_CHECKING:
    from loci.app.play.player import Shown

MAX_MESSAGE = 65536
BUSY_SECONDS = 1.0
IDLE_SECONDS = 2.0
"""A walk that stands for this long is saved whole."""


class Connection:
    """Serves one player until the socket closes; the session stays, to be connected to again."""

    def __init__(self, socket: WebSocket, sessions: Sessions) -> None:
        self.socket, self.sessions = socket, sessions
        self.session: Session | None = None
        self.sending = asyncio.Lock()
        self.gone = False

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
            known = known or base64.b16encode(np.random.bytes(8)).decode().lower()
            known = await self._enter(known)
            session = self.session
            assert session is not None
            before, session.holder = session.holder, self
            session.connections += 1
            if before is not None:
                await before.supersede()
            await self.tell_session()
            await self._listen_and_play()
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
                last = session.holder is self
                if last:
                    session.holder = None
                    session.player.press("", session.player.keys_id, -1)
                async with session.lock:
                    # A chunk of whoever plays on is not settled: its next frames would not be sent.
                    await self.sessions.run(session.autosave, time.monotonic(), last)
            elif known:
                self.sessions.leave(known)

    async def _enter(self, ticket: str) -> str:
        while True:
            found = await self.sessions.enter(ticket)
            if isinstance(found, Session):
                self.session = found
                return found.id
            await self.tell("busy", place=found)
            await asyncio.sleep(BUSY_SECONDS)

    async def supersede(self) -> None:
        """End this connection, since its walk goes on in another one."""
        self.gone = True
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):  # it may be dead without knowing
                await self.tell("elsewhere")
                await self.socket.close(4409)

    async def _listen_and_play(self) -> None:
        """Until either ends. No piece of the walk is made any more once this has returned: its
        frames would be lost, and whoever connects next would wait for them."""
        session = self.session
        assert session is not None
        tasks = [asyncio.create_task(part) for part in (self._listen(), self._play())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.gone = True
        session.changed.set()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises WebSocketDisconnect for what is no JSON object."""
        text = await self.socket.receive_text()
        try:
            message = json.loads(text) if len(text) <= MAX_MESSAGE else None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            await self.socket.close(1009 if len(text) > MAX_MESSAGE else 1003)
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
        async with session.lock:
            player = session.player
            await self.sessions.run(player.settle)
            world, timeline = session.world, player.timeline
            await self.tell(
                "ready",
                session=session.id,
                fps=world.fps,
                chunk=world.chunk_frames,
                size=list(timeline.frame(0).size),
                speed=world.preset.name,
                seed=timeline.state.seed,
                text=world.text_encoder is not None,
                turn_degrees=_degrees(world),
                branches=sorted(session.branches),
                active=session.active,
                frames=timeline.length,
            )
            await self.show(player.go_to(timeline.moment))
            await self.tell("memory", **memory_map(player))

    async def _listen(self) -> None:
        session = self.session
        assert session is not None
        while True:
            message = await self.receive()
            if self.gone:  # the walk goes on elsewhere: keys from here are not its own
                return
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
        while not self.gone:
            async with session.lock:
                if self.gone:
                    return
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
                        async with asyncio.timeout(IDLE_SECONDS):
                            await session.changed.wait()
                            continue
                    async with session.lock:
                        player = session.player
                        idle = player.last - player.painted <= 0
                        settled = idle and player.pending is not None
                        await self.sessions.run(session.autosave, time.monotonic(), idle)
                        if settled:
                            await self.tell("memory", **memory_map(player))


def _degrees(world: Any) -> float | None:
    scale = world.config.action_scale
    return None if scale is None else round(float(np.degrees(scale.turn)), 3)
