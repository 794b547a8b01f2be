"""Pictures, saved walks and selections that are given to the page of `loci play`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="needs playwright")
pytest.importorskip("uvicorn", reason="needs the extra play")

from .pages import Page, walk_for
from .test_server import lifter_of_nothing

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
    assert page.page.locator("#status").inner_text().startswith("Drag a box over the object")
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


def test_a_saved_walk_is_opened_from_the_page(opened: Callable[..., Page], tmp_path: Path) -> None:
    """It goes on where it was saved: what was shown before it was opened has no picture here."""
    page = opened().ready()
    for _ in range(3):
        walk_for(page, "w", 6)
    frames, seed = page.value("loci.painted"), page.value("loci.info.seed")
    with page.page.expect_download() as download:
        page.page.locator("#get-walk").click()
    saved = tmp_path / "walk.loci"
    download.value.save_as(saved)
    page.page.locator("summary", has_text="New walk").click()
    page.page.locator("#restart").click()
    page.until("loci.painted === 0")
    page.page.locator("#walk-file").set_input_files(saved)
    page.until("loci.memory.tokens.length > 0 && loci.painted === 0")
    assert page.value("loci.memory.pose[1]") > 0, "forward is along x"
    assert page.value("loci.memory.tokens[0].start") == -frames
    assert page.value("document.querySelectorAll('#tokens img').length") == 0
    walk_for(page, "w", 3)
    assert page.value("loci.info.seed") == seed
    (tmp_path / "other.loci").write_text("no walk")
    page.page.locator("#walk-file").set_input_files(tmp_path / "other.loci")
    page.page.wait_for_selector("body[data-state^='the saved walk: damaged or no walk']")
    assert page.value("loci.painted") >= 3, "the walk before goes on"
