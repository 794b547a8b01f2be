"""The page of `loci play` in a real browser, against a small world and a real server."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="needs playwright")
pytest.importorskip("uvicorn", reason="needs the extra play")

from safetensors import safe_open

from loci.world.world import World

from ...world.models import small_world
from .pages import Page, free_port, serving, stand, walk_for
from .test_timeline import PICTURE


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
