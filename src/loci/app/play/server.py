"""The web server of `loci play`: one page, one WebSocket a player, downloads and lifts.

Only requests whose Host is this server's, and whose Origin (where a browser sends one) is too, are
answered; bound to another address than loopback, a token is required as well. The page comes with
a strict content security policy and fetches nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

from PIL import Image
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from loci.app.play import WALK
from loci.app.play.connection import Connection
from loci.app.play.lifts import Lifts
from loci.app.play.messages import jpeg
from loci.app.play.sessions import Session, Sessions
from loci.errors import LociError
from loci.io.images import read_pixels

PAGE = Path(__file__).parent / "page"
MAX_UPLOAD = 20 * 2**20
UPLOAD_SECONDS = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "loci_token"
SPLAT_STYLES = (
    "sha256-xSNtLOQ4vJOCwPPzWAd70Wyxz/1mOngaIn+6ZoagKe8=",
    "sha256-kAmMfKqNUQDJce3iZ3k5gsqV1yBNmhTsuN9g1frfzak=",
    "sha256-BBWC9LJZpgGTptFc0+1sitaxPH6r6rb3nEDhklWtPDk=",
)
"""Hashes of the style elements that the vendored splat viewer adds to the page."""


class Guard:
    """Refuses foreign hosts, foreign origins and, where one is set, requests without the token."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], port: int, token: str | None) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{host}:{port}" for host in hosts} | ({*hosts} if port == 80 else set())
        policy = (
            "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' '{map}';"
            " style-src 'self' {splats}; img-src 'self' blob:;"
            " media-src 'self' blob:; connect-src 'self'; worker-src 'self' blob:;"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        splats = " ".join(f"'{digest}'" for digest in SPLAT_STYLES)
        self.policy = policy.replace("{map}", import_map_hash()).replace("{splats}", splats)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        origin = headers.get("origin")
        foreign = headers.get("host") not in self.hosts
        foreign |= origin is not None and re.sub("^https?://", "", origin) not in self.hosts
        if foreign or not self._has_token(scope, headers):
            await self._refuse(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [
                    (b"content-security-policy", self.policy.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cache-control", b"no-cache"),
                ]
                if self.token and scope["path"] == "/":
                    cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
                    message["headers"].append((b"set-cookie", cookie.encode()))
            await send(message)

        await self.app(scope, receive, with_headers)

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if self.token is None:
            return True
        given = re.search(r"(?:^|&)token=([^&]*)", scope["query_string"].decode("latin-1"))
        cookie = re.search(rf"(?:^|; ){COOKIE}=([^;]*)", headers.get("cookie", ""))
        return any(hmac.compare_digest(g.group(1), self.token) for g in (given, cookie) if g)

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403})
            return
        await PlainTextResponse("403: not for this host, origin or token", 403)(
            scope, receive, send
        )


def application(
    sessions: Sessions,
    hosts: tuple[str, ...] = LOOPBACK,
    port: int = 8765,
    token: str | None = None,
) -> Starlette:
    """The server's routes around some sessions; everything is saved when it shuts down."""
    lifts = Lifts(sessions.folder / "lifts")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(sessions.load())
        yield
        loading.cancel()
        lifts.close()
        await sessions.close()

    async def page(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await Connection(websocket, sessions).serve()

    def session_of(request: Request) -> Session | None:
        return sessions.open.get(request.path_params["id"])

    async def frame(request: Request) -> Response:
        session = session_of(request)
        player = session and session.branches.get(request.path_params["branch"])
        if session is None or player is None:
            return missing()
        try:
            async with session.lock:
                image = player.timeline.frame(int(request.path_params["number"]))
        except LociError:
            # A thumbnail may be asked for while its moment is being undone: that is no error.
            return Response(status_code=204) if "thumbnail" in request.query_params else missing()
        return Response(jpeg(image), media_type="image/jpeg")

    async def start_picture(request: Request) -> Response:
        if (session := session_of(request)) is None:
            return missing()
        image = Image.fromarray(await sessions.run(read_pixels, session.picture))
        return Response(await sessions.run(jpeg, image), media_type="image/jpeg")

    async def download(request: Request) -> Response:
        if (session := session_of(request)) is None:
            return missing()
        what = request.path_params["what"]
        async with session.lock:
            player = session.player
            await sessions.run(player.settle)
            timeline = player.timeline
            if what == "actions.json":
                text = json.dumps(timeline.action_list(), indent=0)
                return _attachment(text.encode(), what, "application/json")
            if what == WALK:
                await sessions.run(timeline.save)
                return _attachment(
                    (timeline.folder / WALK).read_bytes(), what, "application/octet-stream"
                )
            if what == "walk.mp4":
                folder = tempfile.TemporaryDirectory(prefix="loci-play-")
                path = Path(folder.name) / what
                scale = max(1, 256 // sessions_size(session))
                await sessions.run(timeline.write_video, path, scale)
                return FileResponse(path, filename=what, background=BackgroundTask(folder.cleanup))
        return missing()

    async def uploaded(request: Request, what: str, use: Callable[..., Any]) -> Response:
        """Begin another walk from a file that is sent; `use` gets the session and the file."""
        if (session := session_of(request)) is None:
            return missing()
        with tempfile.NamedTemporaryFile(prefix="loci-play-", suffix=".upload") as file:
            if (refusal := await receive(request, file)) is not None:
                return refusal
            try:
                await use(session, Path(file.name))
            except LociError as error:
                return refused(str(error).replace(file.name, what), 422)
        session.changed.set()
        return JSONResponse({"ok": True})

    async def picture(request: Request) -> Response:
        async def use(session: Session, path: Path) -> None:
            pixels = await sessions.run(read_pixels, path)
            async with session.lock:
                await sessions.restart(session, pixels)

        return await uploaded(request, "the picture", use)

    async def walk(request: Request) -> Response:
        async def use(session: Session, path: Path) -> None:
            async with session.lock:
                await sessions.go_on(session, path)

        return await uploaded(request, "the saved walk", use)

    async def lift(request: Request) -> Response:
        if (session := session_of(request)) is None:
            return missing()
        try:
            asked = await bounded_json(request)
            async with session.lock:
                if asked.get("source") == "picture":
                    image = Image.fromarray(await sessions.run(read_pixels, session.picture))
                else:
                    await sessions.run(session.player.settle)
                    image = session.player.timeline.frame(int(asked["frame"]))
            return JSONResponse({"job": await lifts.begin(image, asked)})
        except (LociError, ValueError, KeyError, TypeError) as error:
            return refused(str(error), 422)

    async def lift_progress(request: Request) -> Response:
        progress = lifts.progress(request.path_params["job"])
        return missing() if progress is None else JSONResponse(progress)

    async def lift_file(request: Request) -> Response:
        path = lifts.file(request.path_params["job"], request.path_params["name"])
        return missing() if path is None else FileResponse(path)

    routes = [
        Route("/", page),
        WebSocketRoute("/ws", socket),
        Route("/api/sessions/{id}/{branch}/frames/{number:int}.jpg", frame),
        Route("/api/sessions/{id}/picture", start_picture),
        Route("/api/sessions/{id}/picture", picture, methods=["POST"]),
        Route(f"/api/sessions/{{id}}/{WALK}", walk, methods=["POST"]),
        Route("/api/sessions/{id}/lift", lift, methods=["POST"]),
        Route("/api/sessions/{id}/{what}", download),
        Route("/api/lifts/{job}", lift_progress),
        Route("/api/lifts/{job}/{name}", lift_file),
        Mount("/static", StaticFiles(directory=PAGE)),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(Guard, hosts=hosts, port=port, token=token)  # pyright: ignore[reportArgumentType]
    return app


async def receive(request: Request, file: IO[bytes]) -> Response | None:
    """Write the body of a request to a file; a refusal where it is too large or does not end."""
    size = 0
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_UPLOAD:
                    return refused(f"more than {MAX_UPLOAD >> 20} MB", 413)
                file.write(part)
    except TimeoutError:
        return refused(f"not there after {UPLOAD_SECONDS:.0f} seconds", 408)
    file.flush()
    return None


def import_map_hash() -> str:
    """The hash under which the content security policy lets the page's import map in."""
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="importmap">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found.group(1).encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def sessions_size(session: Session) -> int:
    """Height of the frames."""
    return session.player.timeline.frame(0).height


async def bounded_json(request: Request) -> dict[str, Any]:
    """A small JSON object. Raises ValueError for anything else."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > 65536:
            raise ValueError("request: more than 64 kB")
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError("request: expected a JSON object")
    return content


def missing() -> Response:
    """404."""
    return PlainTextResponse("404: not here", 404)


def refused(why: str, status: int) -> Response:
    """An error with its reason, for the page to show."""
    return JSONResponse({"error": why}, status)


def _attachment(content: bytes, name: str, kind: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=kind, headers=headers)
