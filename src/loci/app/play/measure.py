"""`loci bench play`: how quickly the world answers keys, for one player and several; or, with
`--hours`, what hours of play cost in memory.

A client speaks the page's protocol on this machine: it paints frames at the world's rate and
presses keys at random moments, never on purpose where a chunk begins: first from standing, then
while another key is held. A key's delay ends when the first frame that answers it is painted, so it
holds the wait, the generation, the transport and the clock of the page, but neither the browser's
decoding nor the screen.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loci.app.play.play import load_world, start_picture
from loci.app.play.server import application
from loci.app.play.sessions import Sessions
from loci.app.play.soak import Row, play_for, resident
from loci.bench.report import table, write_json
from loci.io.files import check_writable

HEADER = struct.Struct("<IHId")
LONG_HOLD = 3.0  # seconds that a key is held to measure the rate of painting


@dataclass
class Delays:
    """How long keys waited, in seconds: from the key event until the first frame that answers its
    message was painted. A key that no frame answers, since others came after it, is not counted."""

    pressed: dict[int, float] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)

    def press(self, message: int, now: float) -> None:
        """A key went down; `message` is the number of the message that says so."""
        self.pressed[message] = now

    def paint(self, answers: int | None, now: float) -> None:
        """A frame was painted: the first that answers this message, or no message's first."""
        if answers in self.pressed:
            self.waited.append(now - self.pressed[answers])
            self.pressed = {k: t for k, t in self.pressed.items() if k > answers}


@dataclass
class Client:
    """One player: what it paints, and how long its keys waited."""

    address: str
    random: random.Random
    fps: float = 15.0
    chunk: int = 8
    painted: int = 0
    last: int = 0
    frames: dict[int, int | None] = field(default_factory=dict)
    keys_id: int = 0
    answered: int = 0
    standing: Delays = field(default_factory=Delays)
    walking: Delays = field(default_factory=Delays)
    paints: list[float] = field(default_factory=list)
    first_frames: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self, presses: int) -> None:
        """Press a number of keys for a while each, from standing and then while walking; hold one
        at last to measure the rate."""
        from websockets.asyncio.client import connect

        origin = self.address.replace("ws://", "http://").removesuffix("/ws")
        async with connect(self.address, origin=origin, max_size=None) as socket:  # pyright: ignore
            await socket.send(json.dumps({"type": "hello", "session": None}))
            tasks = [
                asyncio.create_task(self._hear(socket)),
                asyncio.create_task(self._paint(socket)),
            ]
            await self.ready.wait()
            await self._press(socket, "w")
            await asyncio.sleep(2.0)  # the first chunk of a process is slow
            self.first_frames.clear()
            self.chunks.clear()
            for _ in range(presses):
                await self._press(socket, self.random.choice("wsadjl"), self.standing)
                await asyncio.sleep(self.random.uniform(0.3, 1.2))
                await self._press(socket, "")
                await asyncio.sleep(self.random.uniform(0.2, 0.8))
            for _ in range(presses):
                await self._press(socket, "w")
                await asyncio.sleep(self.random.uniform(0.8, 1.6))
                await self._press(socket, "w" + self.random.choice("jl"), self.walking)
                await asyncio.sleep(self.random.uniform(0.3, 1.2))
            self.paints.clear()
            await self._press(socket, "w")
            await asyncio.sleep(LONG_HOLD)
            await self._press(socket, "")
            for task in tasks:
                task.cancel()

    @property
    def rate(self) -> float:
        """Frames a second painted while the last key was held, its delay included."""
        return len(self.paints) / LONG_HOLD

    async def _press(self, socket: Any, keys: str, delays: Delays | None = None) -> None:
        self.keys_id += 1
        if delays is not None:
            delays.press(self.keys_id, time.perf_counter())
        message = {"type": "keys", "keys": keys, "id": self.keys_id, "painted": self.painted}
        await socket.send(json.dumps(message))

    async def _hear(self, socket: Any) -> None:
        async for message in socket:
            if isinstance(message, str):
                content = json.loads(message)
                if content["type"] == "ready":
                    self.fps, self.chunk = content["fps"], content["chunk"]
                    self.ready.set()
                continue
            first, count, answers, seconds = HEADER.unpack_from(message)
            for number in [n for n in self.frames if n >= first]:
                del self.frames[number]
            for k in range(count):
                self.frames[first + k] = answers if k == 0 else None
            if not seconds:
                self.painted = first - 1
                continue
            if answers != self.answered:
                self.first_frames.append(seconds)
            self.answered = answers
            if (first + count - 1) % self.chunk == 0:
                self.chunks.append(seconds)

    async def _paint(self, socket: Any) -> None:
        due = time.perf_counter()
        while True:
            await asyncio.sleep(max(0.002, due - time.perf_counter()))
            if time.perf_counter() < due or self.painted + 1 not in self.frames:
                continue
            now = time.perf_counter()
            due = max(due, now - 1 / self.fps) + 1 / self.fps
            self.painted += 1
            self.paints.append(now)
            answers = self.frames.pop(self.painted)
            self.standing.paint(answers, now)
            self.walking.paint(answers, now)
            await socket.send(json.dumps({"type": "painted", "frame": self.painted}))


def bench(
    model: str = "doom",
    speed: str = "faster",
    sessions: tuple[int, ...] = (1, 2, 4),
    presses: int = 30,
    hours: float | None = None,
    json: Path | None = None,
) -> None:
    """Delay from key to picture, frames a second and memory, for several numbers of players.

    Args:
        model: doom, a model folder, or a hub id.
        speed: speed preset: exact, fast or faster.
        sessions: numbers of players at a time.
        presses: keys that each player presses from standing, and again while walking.
        hours: length of one player's walk, instead: generated as fast as the machine can and
            saved as `loci play` does, to see that memory does not grow.
        json: file to write the figures to.
    """
    if json is not None:
        check_writable(json)
    if hours is not None:
        _bench_memory(model, speed, hours, json)
        return
    results = [measured(model, speed, players, presses) for players in sessions]
    columns = ("players", "median ms", "95 % ms", "walking ms", "95 % ms", "frames/s")
    columns += ("first ms", "chunk ms", "MB")
    rows = [tuple(round(result[key], 1) for key in RESULTS) for result in results]
    print(table(columns, rows))
    if json is not None:
        write_json(json, {"model": model, "speed": speed, "cores": os.cpu_count(), "runs": results})


def _bench_memory(model: str, speed: str, hours: float, json: Path | None) -> None:
    print(f"{'hours':>6} {'frames':>8} {'MB':>8} {'MB on disk':>10}")

    def told(row: Row) -> None:
        print(f"{row[0]:6.2f} {row[1]:8d} {row[2]:8.1f} {row[3]:10.1f}", flush=True)

    picture = start_picture(model, None)
    rows = play_for(lambda: load_world(model), picture, hours, speed, told)
    if json is not None:
        columns = ("hours", "frames", "rss_mb", "disk_mb")
        runs = [dict(zip(columns, row, strict=True)) for row in rows]
        write_json(json, {"model": model, "speed": speed, "runs": runs})


RESULTS = (
    "players",
    "median_ms",
    "p95_ms",
    "walking_median_ms",
    "walking_p95_ms",
    "frames_per_second",
    "first_frame_ms",
    "chunk_ms",
    "rss_mb",
)
"""`median_ms` and `p95_ms`: delays of keys pressed from standing; `walking_`: while another key is
held. `first_frame_ms` and `chunk_ms`: from a chunk's beginning until its first and last frame."""


def measured(model: str, speed: str, players: int, presses: int) -> dict[str, float]:
    """One run with a server of its own."""
    import uvicorn

    with socket.socket() as probe, tempfile.TemporaryDirectory(prefix="loci-play-") as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        threads = os.cpu_count() or 1
        picture = start_picture(model, None)
        served = Sessions(
            lambda: load_world(model), picture, Path(folder), 0, speed, players, threads
        )
        config = uvicorn.Config(
            application(served, port=port), port=port, log_level="error", ws="websockets-sansio"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            clients = asyncio.run(_all_play(f"ws://127.0.0.1:{port}/ws", players, presses))
        finally:
            server.should_exit = True
            thread.join()
    delays = [delay for client in clients for delay in client.standing.waited]
    walking = [delay for client in clients for delay in client.walking.waited]
    first_frames = [seconds for client in clients for seconds in client.first_frames]
    chunks = [seconds for client in clients for seconds in client.chunks]
    return {
        "players": players,
        "keys": len(delays),
        "median_ms": 1000 * float(np.median(delays)),
        "p95_ms": 1000 * float(np.quantile(delays, 0.95)),
        "walking_median_ms": 1000 * float(np.median(walking)),
        "walking_p95_ms": 1000 * float(np.quantile(walking, 0.95)),
        "frames_per_second": float(np.mean([client.rate for client in clients])),
        "first_frame_ms": 1000 * float(np.median(first_frames)),
        "chunk_ms": 1000 * float(np.median(chunks)),
        "rss_mb": resident() / 2**20,
    }


async def _all_play(address: str, players: int, presses: int) -> list[Client]:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(address.split(":")[2][:-3]))
            writer.close()
            break
        except OSError:
            await asyncio.sleep(0.05)
    clients = [Client(address, random.Random(seed)) for seed in range(players)]
    await asyncio.gather(*(client.play(presses) for client in clients))
    return clients
