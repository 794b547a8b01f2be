"""The page of `loci play` in a real browser, against a small world and a real server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="needs playwright")
pytest.importorskip("uvicorn", reason="needs the extra play")

import uvicorn
from playwright.sync_api import sync_playwright
from safetensors import safe_open

from loci.app.play.server import application
from loci.app.play.sessions import Sessions

from ...world.models import small_world
from .test_timeline import PICTURE

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")
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
]


class Page:
    """A page of the server: playwright's, what it evaluates, and what it complained of."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
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

    def until(self, expression: str, seconds: float = 30) -> None:
        ends = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < ends, f"never: {expression}"
            time.sleep(0.02)

    def ready(self) -> "Page":
        self.page.wait_for_selector("body[data-state^=Ready]", timeout=60_000)
        return self


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    sessions = Sessions(small_world, PICTURE, tmp_path / "walks", 0, "exact", 2, threads=2)
    config = uvicorn.Config(
        application(sessions, port=port), port=port, log_level="error", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def open_page(**options: Any) -> Page:
        pages.append(Page(browser, address, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()


def test_the_page_is_ready_without_a_word_of_complaint(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    host = page.page.url.split("/")[2]
    foreign = [url for url in page.requests if host not in url and not url.startswith("blob:")]
    assert foreign == []
    assert page.complaints == []


def test_a_held_key_walks_and_letting_go_stops_within_a_chunk(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.page.keyboard.down("w")
    page.until("loci.painted >= 9")
    page.page.keyboard.up("w")
    at = page.value("loci.painted")
    page.until("loci.last === loci.painted")
    time.sleep(0.5)
    assert page.value("loci.painted") <= at + 2 * 4
    page.until("loci.latency(0.5) > 0")
    assert page.value("document.querySelector('#hud').textContent.includes('key to picture')")


def test_no_key_stays_held_when_the_window_is_left(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    for leave in (
        "dispatchEvent(new Event('blur'))",
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true}),"
        "document.dispatchEvent(new Event('visibilitychange'))",
    ):
        page.page.keyboard.down("w")
        page.until("loci.held.size === 1")
        page.value(leave)
        assert page.value("loci.held.size") == 0
        page.page.keyboard.up("w")


def test_a_cancelled_touch_lets_go(opened: Callable[..., Page]) -> None:
    page = opened(has_touch=True).ready()
    button = "document.querySelector('[data-key=w]')"
    page.value(f"{button}.setPointerCapture = () => {{}}")
    down = "new PointerEvent('pointerdown', {pointerId: 7, bubbles: true})"
    page.value(f"{button}.dispatchEvent({down})")
    assert page.value("[...loci.held].join()") == "w"
    page.value(f"{button}.dispatchEvent(new PointerEvent('pointercancel', {{pointerId: 7}}))")
    assert page.value("loci.held.size") == 0


def test_typing_into_a_field_moves_nothing(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.page.locator("summary", has_text="New walk").click()
    page.page.locator("#seed").focus()
    page.page.keyboard.press("w")
    page.page.keyboard.press("ArrowUp")
    assert page.value("loci.held.size") == 0
    assert page.value("loci.keysId") == 0


def test_a_lost_socket_pauses_and_comes_back(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.page.keyboard.down("w")
    page.until("loci.painted >= 4")
    session = page.value("loci.session")
    page.value("loci.socket.close()")
    page.page.wait_for_selector("body[data-state^='Connection lost']", timeout=10_000)
    assert page.value("loci.held.size") == 0
    page.page.keyboard.up("w")
    page.ready()
    assert page.value("loci.session") == session
    assert page.value("loci.last") >= 4


def test_undo_peek_and_map(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.page.keyboard.down("w")
    page.until("loci.painted >= 12")
    page.page.keyboard.up("w")
    page.until("loci.last === loci.painted")
    before = page.value("loci.painted")
    page.page.keyboard.press("u")
    page.until(f"loci.painted === {before - 4}")
    page.page.locator("#peek-left").click()
    page.page.wait_for_selector("#peeked:not([hidden]) img[src^=blob]", timeout=20_000)
    assert page.value("loci.painted") == before - 4
    assert page.value("Number(document.querySelector('#moment').max)") >= 1


def test_a_phone_reaches_every_control(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True).ready()
    for summary in page.page.locator("summary").all():
        if not summary.evaluate_handle("(element) => element.parentElement").get_property("open"):
            summary.click()
    for control in page.page.locator("button:visible, select:visible, a.button:visible").all():
        box = control.bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["width"] >= 40
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    assert page.value("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_alone_reaches_every_control(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.value("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    wanted = set(
        page.value(
            "[...document.querySelectorAll('button, select, a.button, summary, "
            "input:not([type=radio]):not([hidden])')].filter((e) => e.offsetParent && e.id)"
            ".map((e) => e.id)"
        )
    )
    reached = set()
    for _ in range(60):
        page.page.keyboard.press("Tab")
        reached.add(page.value("document.activeElement.id"))
    assert wanted <= reached


def test_text_has_contrast(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    pairs = page.value(
        """(() => {
          const number = (text) => text.match(/[\\d.]+/g).map(Number);
          const ground = (e) => {
            for (; e; e = e.parentElement) {
              const found = number(getComputedStyle(e).backgroundColor);
              if (found.length < 4 || found[3] === 1) return found.slice(0, 3);
            }
            return [0, 0, 0];
          };
          return [...document.querySelectorAll('p, summary, label, button, a, kbd, h1')]
            .filter((e) => e.offsetParent)
            .map((e) => [number(getComputedStyle(e).color).slice(0, 3), ground(e)]);
        })()"""
    )
    assert len(pairs) > 20
    for text, ground in pairs:
        low, high = sorted((luminance(text), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(color: list[float]) -> float:
    """Relative luminance of an sRGB colour of 0 to 255 (WCAG 2)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in color]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def frames_in(walk: Path) -> int:
    if not walk.is_file():
        return 0
    with safe_open(walk, "numpy") as file:
        return json.loads(file.metadata()["walk"])["frames"]


def test_a_killed_server_offers_to_go_on(browser: Any, tmp_path: Path) -> None:
    """kill -9 loses a few seconds at most; the walk is there again in the same tab."""
    small_world().save_pretrained(tmp_path / "model")
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    port = free_port()
    command = [sys.executable, "-m", "loci.cli", "play", str(tmp_path / "picture.png"), "--no-open"]
    command += ["--model", str(tmp_path / "model"), "--port", str(port)]
    command += ["--autosave", str(tmp_path / "walks"), "--speed", "exact"]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command)
        for _ in range(600):
            try:
                urlopen(f"http://127.0.0.1:{port}/", timeout=1).read()
                return process
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server never answered")

    server = start()
    try:
        page = Page(browser, f"http://127.0.0.1:{port}/").ready()
        session = page.value("loci.session")
        page.page.keyboard.down("w")
        walk = tmp_path / "walks" / session / "a" / "walk.loci"
        ends = time.monotonic() + 60
        while frames_in(walk) <= 12:
            assert time.monotonic() < ends
            time.sleep(0.05)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        page.page.keyboard.up("w")
        page.page.wait_for_selector("body[data-state^='Connection lost']", timeout=20_000)
        server = start()
        page.ready()
        assert page.value("loci.session") == session
        page.until("loci.last > 0")
        assert page.value("loci.last") >= 12
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) in (0, 130), "stopped as by Ctrl-C"
        assert walk.is_file()
    finally:
        server.kill()
