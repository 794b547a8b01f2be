"""Pages of `loci play` in a real browser, against a small world and a real server."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from loci.app.play.server import application
from loci.app.play.sessions import Sessions
from loci.world.world import World

from ...world.models import small_world
from .test_timeline import PICTURE

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


class Page:
    """A page of the server: playwright's, what it evaluates, and what it complained of."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(90_000)  # milliseconds; other work may slow it down
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        # The page's policy forbids eval, by which playwright would evaluate.
        self.inspector = self.context.new_cdp_session(self.page)

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def value(self, expression: str) -> Any:
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        return self.inspector.send("Runtime.evaluate", asked)["result"].get("value")

    def until(self, expression: str, seconds: float = 90) -> None:
        ends = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < ends, f"never: {expression}"
            time.sleep(0.02)

    def ready(self) -> "Page":
        self.page.wait_for_selector("body[data-state^=Ready]")
        return self


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(folder: Path, most: int = 2, load: Callable[[], World] = small_world) -> Iterator[str]:
    """The address of a server in this process."""
    port = free_port()
    sessions = Sessions(load, PICTURE, folder / "walks", 0, "exact", most, threads=2)
    config = uvicorn.Config(
        application(sessions, port=port), port=port, log_level="error", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(20)


def walk_for(page: Page, key: str, frames: int) -> None:
    """Hold a key until so many more frames are there, and wait until the walk stands."""
    at = page.value("loci.painted")
    page.page.keyboard.down(key)
    page.until(f"loci.painted >= {at + frames}")
    page.page.keyboard.up(key)
    stand(page)


def stand(page: Page) -> None:
    """Wait until everything is painted, and no more comes."""
    painted = None
    while painted != page.value("loci.painted"):
        page.until("loci.end === loci.painted")
        painted = page.value("loci.painted")
        time.sleep(0.5)
