"""`loci bench play`: it measures a key's delay as the page does."""

import json
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright")
pytest.importorskip("uvicorn", reason="needs the extra play")

from loci.app.play.measure import Delays

from .pages import Page

RECORDED = """
(() => {
  const walk = loci, clock = performance.now;
  walk.live = true;
  walk.send = () => {};
  walk.latencies = [];
  const image = {close() {}};
  walk.context = {drawImage() {}};
  for (const [what, message, at] of EVENTS) {
    performance.now = () => at;
    if (what === "press") walk.keysId = message - 1, walk.hold(new Set(["w"]));
    else if (what === "release") walk.keysId = message - 1, walk.hold(new Set());
    else walk.paint({image, answers: message}, at);
  }
  performance.now = clock;
  return [walk.latencies.length, walk.latency(0.5), walk.latency(0.95)];
})()
"""


def recorded(seed: int = 0) -> list[tuple[str, int | None, float]]:
    """Key and paint events in milliseconds: presses at any phase, some of which are never
    answered since the next came first, and frames that answer nothing."""
    rng = np.random.default_rng(seed)
    events: list[tuple[str, int | None, float]] = []
    at, message = 100.0, 0
    for _ in range(30):
        message += 1
        events.append(("press", message, at))
        if rng.random() < 0.2:
            at += rng.uniform(5, 40)
            message += 1
            events.append(("press", message, at))
        at += rng.gamma(3, 60)
        events.append(("paint", message, at))
        for _ in range(int(rng.integers(1, 8))):
            at += 1000 / 15
            events.append(("paint", None, at))
        message += 1
        events.append(("release", message, at))
        at += rng.uniform(20, 400)
        events.append(("paint", message, at))
    return events


def test_the_page_and_the_benchmark_agree_on_recorded_events(opened: Callable[..., Page]) -> None:
    events = recorded()
    delays = Delays()
    for what, message, at in events:
        if what == "press":
            assert message is not None
            delays.press(message, at)
        elif what == "paint":
            delays.paint(message, at)
    page = opened().ready()
    count, median, p95 = page.value(RECORDED.replace("EVENTS", json.dumps(events)))
    assert count == len(delays.waited) == 30
    assert median == pytest.approx(np.median(delays.waited), abs=0.01)
    assert p95 == pytest.approx(np.quantile(delays.waited, 0.95), abs=0.01)
