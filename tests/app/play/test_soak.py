"""Hours of play at top speed, shortened: the server's memory stays flat."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra play")

from loci.app.play import soak, timeline
from loci.cli import main

from ...world.models import like_the_shipped, small_world

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_memory_is_flat_once_a_walk_has_all_its_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as few states as are full after a quarter of the time."""
    monkeypatch.setattr(timeline, "DENSE", 8)
    monkeypatch.setattr(timeline, "MAX_STATES", 16)
    monkeypatch.setattr(soak, "UNDO_EVERY", 50)
    told: list[soak.Row] = []
    load = lambda: like_the_shipped(chunk=16)  # noqa: E731
    rows = soak.play_for(load, PICTURE, hours=0.03, speed="exact", told=told.append)
    assert told == rows
    assert len(rows) == 8
    assert rows[-1][0] == pytest.approx(0.03, rel=0.02)
    assert rows[-1][1] == pytest.approx(0.03 * 3600 * 15, rel=0.02)
    assert max(row[3] for row in rows) > 2 * rows[0][3], "frames are on the disk"
    megabytes = [row[2] for row in rows[1:]]
    assert max(megabytes) <= 1.1 * min(megabytes)


def test_the_command_prints_a_row_for_every_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_world().save_pretrained(tmp_path / "model")
    words = ["bench", "play", "--hours", "0.002", "--model", str(tmp_path / "model")]
    words += ["--speed", "exact", "--json", str(tmp_path / "memory.json")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["hours", "frames", "MB", "MB", "on", "disk"]
    assert len(lines) == 9
    assert '"rss_mb"' in (tmp_path / "memory.json").read_text()
