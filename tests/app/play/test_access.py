"""The page of `loci play` for touch, for the keyboard alone, and for eyes."""

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright")
pytest.importorskip("uvicorn", reason="needs the extra play")

from .pages import Page, stand, walk_for


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
            "input:not([type=radio])')].filter((e) => e.offsetParent && e.id)"
            ".map((e) => e.id)"
        )
    )
    reached = set()
    for _ in range(60):
        page.page.keyboard.press("Tab")
        reached.add(page.value("document.activeElement.id"))
    assert wanted <= reached


def test_text_has_contrast(opened: Callable[..., Page]) -> None:
    """All of it, with every panel open and a button held."""
    page = opened().ready()
    page.value("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    page.value("document.querySelectorAll('[hidden]').forEach((e) => (e.hidden = false))")
    page.value("document.querySelector('[data-key=w]').classList.add('held')")
    page.until("document.querySelector('#hud').textContent")
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
          return [...document.querySelectorAll('body *')]
            .filter((e) => e.matches('input[type=number], select')
              || [...e.childNodes].some((c) => c.nodeType === Node.TEXT_NODE && c.data.trim()))
            .filter((e) => e.offsetParent)
            .map((e) => [
              e.outerHTML.slice(0, 80), number(getComputedStyle(e).color).slice(0, 3), ground(e)
            ]);
        })()"""
    )
    assert len(pairs) > 60
    for element, text, ground in pairs:
        low, high = sorted((luminance(text), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, element


def test_reduced_motion_is_respected(opened: Callable[..., Page]) -> None:
    """Nothing turns by itself; the walk, which the keys move, goes on."""
    still = opened(reduced_motion="reduce")
    spinner = "getComputedStyle(document.querySelector('#spinner'))"
    assert still.value(f"{spinner}.animationName") == "none"
    still.ready()
    walk_for(still, "w", 3)
    moving = opened(reduced_motion="no-preference")
    assert moving.value(f"{spinner}.animationName") == "turn"
    viewer = "import('/static/js/viewer.js').then((viewer) => viewer.turnsByItself())"
    assert still.value(viewer) is False
    assert moving.value(viewer) is True


def test_a_walk_by_touch_alone(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).ready()
    page.page.locator("[data-key=w]").tap()  # shorter than a frame, and walked all the same
    page.until("loci.painted >= 2")
    stand(page)
    at = page.value("loci.painted")
    page.page.locator("#peek-left").tap()
    page.page.wait_for_selector("#peeked:not([hidden])")
    page.page.locator("#undo").tap()
    page.until(f"loci.painted < {at}")
    page.page.locator("summary", has_text="New walk").tap()
    page.page.locator("#restart").tap()
    page.until("loci.painted === 0")
    assert page.complaints == []


def test_a_walk_by_the_keyboard_alone(opened: Callable[..., Page]) -> None:
    page = opened().ready()

    def go_to(identity: str) -> None:
        for _ in range(80):
            page.page.keyboard.press("Tab")
            if page.value("document.activeElement.id") == identity:
                return
        raise AssertionError(f"{identity}: never reached")

    walk_for(page, "ArrowUp", 6)
    at = page.value("loci.painted")
    go_to("peek-right")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("#peeked:not([hidden])")
    go_to("fork")
    page.page.keyboard.press("Space")
    page.until("loci.info.active === 'b'")
    page.page.keyboard.press("u")
    page.until(f"loci.painted < {at}")
    page.value("document.querySelector('#lift').open = true")
    go_to("select")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector(".screen.selecting")
    page.page.keyboard.press("Escape")
    assert not page.page.locator(".screen.selecting").count()
    assert page.complaints == []


def test_a_thumbnail_of_an_undone_moment_is_no_error(opened: Callable[..., Page]) -> None:
    page = opened().ready()
    shown = """new Promise((done) => {
      const image = new Image();
      image.onload = () => done("there");
      image.onerror = () => done("gone");
      image.src = `/api/sessions/${loci.session}/a/frames/NUMBER.jpg?thumbnail`;
    })"""
    assert page.value(shown.replace("NUMBER", "0")) == "there"
    assert page.value(shown.replace("NUMBER", "99")) == "gone"
    assert page.complaints == []


def luminance(color: list[float]) -> float:
    """Relative luminance of an sRGB colour of 0 to 255 (WCAG 2)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in color]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
