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
from contextlib import contextmanager
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
from loci.world.world import World

from ...world.models import small_world
from .test_server import lifter_of_nothing
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


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def open_page(**options: Any) -> Page:
        pages.append(Page(browser, address, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()


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


def test_the_page_is_ready_without_a_word_of_complaint(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    host = page.page.url.split("/")[2]
    foreign = [url for url in page.requests if host not in url and not url.startswith("blob:")]
    assert foreign == []
    assert page.complaints == []


def test_the_page_is_there_while_the_world_is_loading(browser: Any, tmp_path: Path) -> None:
    """It says so, nothing on it can be used before there is a walk, and no key is kept."""
    go_on = threading.Event()

    def load() -> World:
        assert go_on.wait(60)
        return small_world()

    with serving(tmp_path, load=load) as address:
        page = Page(browser, address)
        page.page.wait_for_selector("body[data-state^='The world is loading']")
        navigation = "performance.getEntriesByType('navigation')[0]"
        assert page.value(f"{navigation}.responseEnd > 0")
        page.page.keyboard.press("w")
        assert page.value("loci.keysId") == 0
        assert page.page.locator("#veil").is_visible()
        assert page.value("document.querySelector('.side').inert")
        assert page.value("document.querySelector('.pad').inert")
        go_on.set()
        page.ready()
        assert not page.page.locator("#veil").is_visible()
        assert not page.value("document.querySelector('.side').inert")
        assert page.complaints == []
        page.context.close()


def test_nothing_that_is_slow_is_imported_before_the_page_is_served() -> None:
    """The page is there in under a second; torch alone takes longer."""
    asked = "import sys, loci.app.play.play, loci.app.play.server; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_one_too_many_is_told_its_place(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path, most=1) as address:
        one = Page(browser, address).ready()
        two = Page(browser, address)
        two.page.wait_for_selector("body[data-state^='Busy']")
        assert "number 1 in the queue" in two.page.locator("#veil").inner_text()
        assert two.value("document.querySelector('#hud').textContent") == ""
        walk_for(one, "w", 3)
        one.context.close()
        two.context.close()


def test_the_tab_that_came_later_has_the_walk(opened: Callable[..., Page]) -> None:
    one = opened().ready()
    walk_for(one, "w", 3)
    two = opened().ready()  # else it would overwrite the id that is put there
    two.value(f"sessionStorage.setItem('loci-session', '{one.value('loci.session')}')")
    two.page.reload()
    one.page.wait_for_selector("body[data-state^='This walk goes on in another tab']")
    two.ready()
    at = two.value("loci.painted")
    assert at >= 4
    walk_for(two, "w", 3)
    assert one.page.locator("#veil").is_visible(), "it does not reconnect"


def test_frames_are_painted_at_the_rate_of_the_world(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.page.keyboard.down("w")
    page.until("loci.painted >= 30")
    rates = []
    for _ in range(20):
        rates.append(page.value("loci.rate"))
        time.sleep(0.1)
    page.page.keyboard.up("w")
    stand(page)
    assert max(rates) <= 15.8
    assert page.value("loci.memory.pose[1]") > 0, "forward is along x"
    assert page.value("loci.memory.pose[2]") == 0
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        pytest.skip("other work on this machine: too slow to be painted at 15 frames a second")
    assert max(rates) >= 14


def test_memory_tokens_are_shown_as_what_was_seen_then(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    assert "Nothing is remembered yet" in page.page.locator("#tokens-text").inner_text()
    for _ in range(3):
        walk_for(page, "w", 6)
    walk_for(page, "j", 6)
    count = page.value("loci.memory.tokens.length")
    assert count >= 2
    assert page.page.locator("#tokens-text").inner_text().startswith(f"{count} memory token")
    page.until("document.querySelectorAll('#tokens img').length >= 2")
    images = "[...document.querySelectorAll('#tokens img')]"
    page.until(f"{images}.every((image) => image.naturalWidth === 32)")
    assert page.value(f"{images}.length") <= count
    page.page.locator("#tokens button").first.click()
    page.page.wait_for_selector("#peeked:not([hidden])")
    assert page.page.locator("#peeked figcaption").inner_text().startswith("Shown then: frame ")
    assert page.complaints == []


def test_a_held_key_walks_and_letting_go_stops_within_a_chunk(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.page.keyboard.down("w")
    page.until("loci.painted >= 9")
    page.page.keyboard.up("w")
    at = page.value("loci.painted")
    stand(page)
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
    page.page.wait_for_selector("body[data-state^='Connection lost']")
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
    stand(page)
    before = page.value("loci.painted")
    page.page.keyboard.press("u")
    page.until(f"loci.painted === {before - 4}")
    page.page.locator("#peek-left").click()
    page.page.wait_for_selector("#peeked:not([hidden]) img[src^=blob]")
    assert page.value("loci.painted") == before - 4
    assert page.value("Number(document.querySelector('#moment').max)") >= 1


def test_two_branches_are_seen_side_by_side(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    walk_for(page, "w", 4)
    part = page.value("loci.painted") + 1
    page.page.locator("#fork").click()
    page.until("loci.info.active === 'b'")
    walk_for(page, "j", 8)
    page.page.locator("#branch").select_option("a")
    page.until("loci.info.active === 'a'")
    walk_for(page, "l", 8)
    page.page.locator("#compare-with").select_option("b")
    page.page.wait_for_selector("#compare:not([hidden])")
    pictures = "[...document.querySelectorAll('.pair img')]"
    page.until(f"{pictures}.every((image) => image.naturalWidth === 32)")
    page.value("const range = document.querySelector('#compare-frame'); range.value = range.min;")
    page.value("document.querySelector('#compare-frame').dispatchEvent(new Event('input'))")
    captions = "[...document.querySelectorAll('.pair figcaption')].map((c) => c.textContent)"
    assert page.value(captions) == [f"Branch {name}, frame {part}" for name in "ab"]
    page.page.locator("#compare-play").click()
    page.until(f"{captions}[0] !== 'Branch a, frame {part}'")
    page.until("document.querySelector('#compare-play').textContent === 'Play both'")
    assert page.complaints == []


def test_a_gamepad_walks_and_its_loss_lets_go(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.value("window.pad = {axes: [0, -1, 0, 0], buttons: []}")
    page.value("navigator.getGamepads = () => [null, window.pad]")
    page.value("dispatchEvent(new Event('gamepadconnected'))")
    page.until("[...loci.held].join() === 'w'")
    page.until("loci.painted >= 3")
    page.value("window.pad = {axes: [0, 0, 1, 0], buttons: []}")
    page.until("[...loci.held].join() === 'l'")
    page.value("window.pad = {axes: [0, 0, 0, 0], buttons: {12: {pressed: true}}}")
    page.until("[...loci.held].join() === 'w'")
    page.value("window.pad = null")
    page.until("loci.held.size === 0")


FILE = """
const give = async (event) => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 48, height: 40});
  canvas.getContext('2d').fillRect(0, 0, 24, 40);
  const data = new DataTransfer();
  data.items.add(new File([await new Promise((done) => canvas.toBlob(done))], 'picture.png'));
  document.body.dispatchEvent(event(data));
};
"""
START_SIZE = """
fetch(`/api/sessions/${loci.session}/picture`).then((answer) => answer.blob())
  .then(createImageBitmap).then((image) => `${image.width}x${image.height}`)
"""


@pytest.mark.parametrize(
    "event",
    [
        "new ClipboardEvent('paste', {clipboardData: data, bubbles: true})",
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})",
    ],
    ids=["paste", "drop"],
)
def test_a_pasted_or_dropped_picture_is_walked_into(
    opened: Callable[..., Page], event: str
) -> None:
    page = opened().ready()
    walk_for(page, "w", 3)
    page.value(FILE + f"give((data) => {event})")
    page.until(f"({START_SIZE.strip()}).then((size) => size === '48x40')")
    page.until("loci.painted === 0")
    walk_for(page, "w", 3)


def test_a_picture_is_taken_with_the_camera(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    page.page.locator("summary", has_text="New walk").click()
    page.page.locator("#camera").click()
    page.until("document.querySelector('#viewfinder video').videoWidth > 0")
    video = "document.querySelector('#viewfinder video')"
    size = page.value(f"`${{{video}.videoWidth}}x${{{video}.videoHeight}}`")
    page.page.locator("#take").click()
    page.until(f"({START_SIZE.strip()}).then((size) => size === '{size}')")
    assert page.value(f"{video}.srcObject") is None, "the camera is off"
    assert page.complaints == []


def test_an_object_is_selected_in_the_start_picture(
    opened: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(lifter_of_nothing(tmp_path)))
    page = opened().ready()
    asked: list[Any] = []
    page.page.on("request", lambda request: asked.append(request.post_data))
    page.value(
        FILE + "give((data) => new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))"
    )
    page.until(f"({START_SIZE.strip()}).then((size) => size === '48x40')")
    page.page.locator("summary", has_text="Lift an object").click()
    page.page.locator("input[name=source][value=picture]").check()
    page.page.locator("#select").click()
    picture = page.page.locator("#start-picture")
    picture.wait_for(state="visible")
    assert not page.page.locator("#view").is_visible()
    box = picture.bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(48 / 40, rel=0.02)
    mouse = page.page.mouse
    mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    mouse.down()
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 3 / 4)
    mouse.up()
    page.page.wait_for_selector("#lift-files a")
    sent = json.loads(next(data for data in asked if data and data.startswith("{")))
    assert sent["source"] == "picture"
    assert sent["box"] == pytest.approx([0.25, 0.25, 0.5, 0.75], abs=0.02)
    assert page.page.locator("#view").is_visible()
    assert not picture.is_visible()


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
                urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
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
        page.page.wait_for_selector("body[data-state^='Connection lost']")
        server = start()
        page.ready()
        assert page.value("loci.session") == session
        page.until("loci.last > 0")
        assert page.value("loci.last") >= 12
        walk_for(page, "w", 3)
        painted = page.value("loci.painted")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) in (0, 130), "stopped as by Ctrl-C"
        assert frames_in(walk) == painted + 1, "nothing is lost"
    finally:
        server.kill()
