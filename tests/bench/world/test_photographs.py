"""Photographs: what is compared with what."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loci.actions import parse_keys
from loci.bench.world.photographs import (
    AWAY,
    FIRST,
    KEYS,
    LAST,
    RETURNED,
    TILES,
    TURNED,
    PhotographWalk,
    draw,
    measure,
    palette_kept,
    photographs,
    walk_into,
)
from loci.envs.doom.engine import TURN
from loci.errors import LociError
from loci.memory.poses import ActionScale, dead_reckon
from tests.world.models import small_world

GRAY = np.full((8, 8, 3), 128, np.uint8)


def walk(name: str, color: tuple[int, int, int], picture: tuple[int, int, int]) -> PhotographWalk:
    picture_, frame = (np.broadcast_to(np.array(c, np.uint8), (8, 8, 3)) for c in (picture, color))
    return PhotographWalk(name, picture_, picture_, np.broadcast_to(frame, (216, 8, 8, 3)))


def mean_color(frames: np.ndarray) -> np.ndarray:
    return frames.mean(axis=(1, 2))


def test_the_marked_frames_look_where_the_photograph_looks() -> None:
    """By dead reckoning: the marks back at the start, the views away at least 80 degrees off."""
    import torch

    actions = torch.tensor(parse_keys(KEYS))
    scale = ActionScale(np.radians(TURN), 12 / 128)
    start = torch.zeros(1, 3, dtype=torch.float64)
    poses = dead_reckon(start, actions[None, :, 0], actions[None, :, 1], scale)[0].numpy()
    turned = np.abs((np.degrees(poses[:, 0]) + 180) % 360 - 180)
    for mark in (FIRST, TURNED, RETURNED, LAST):
        assert turned[mark] < 1e-3
        assert np.abs(poses[mark, 1:]).max() < 1e-6
    assert (turned[AWAY] >= 80).all()
    assert turned[AWAY.start - 1] < 90
    assert max(TILES) < len(actions)


def test_scores_are_those_of_the_marked_frames() -> None:
    one = walk("one", (128, 128, 128), (128, 128, 128))
    frames = one.frames.copy()
    frames[RETURNED] = 0
    one = PhotographWalk("one", one.picture, one.decoded, frames)
    other = walk("other", (0, 0, 255), (0, 0, 128))
    found = measure([one, other], mean_color)  # pyright: ignore[reportArgumentType]
    row = found["photographs"]["one"]
    assert row["first"] == row["turned"] == row["last"] == row["codec"] == 60
    assert row["returned"] < 7
    assert found["first_psnr"] == pytest.approx((60 + 10 * np.log10(3 * 255**2 / 127**2)) / 2)
    assert found["between"] == pytest.approx(1 - 1 / np.sqrt(3))


def test_palettes_are_compared_with_the_other_photographs() -> None:
    red, blue = (200, 0, 0), (0, 0, 200)
    assert palette_kept([walk("a", red, red), walk("b", blue, blue)]) == 1
    assert palette_kept([walk("a", blue, red), walk("b", red, blue)]) == 0
    assert palette_kept([walk("a", red, red), walk("b", red, blue)]) == 0.5


def test_a_walk_begins_in_its_photograph(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    world = small_world()
    found = walk_into(world, tmp_path / "a.png", seed=0)
    assert found.frames.shape == (216, *found.picture.shape)
    assert found.picture.shape == found.decoded.shape == (*world.config.size, 3)  # type: ignore
    side = found.picture.shape[1]
    assert draw([found, found]).size == ((1 + len(TILES)) * side, 2 * side)


def test_one_photograph_is_not_enough(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    with pytest.raises(LociError, match="1 photographs, expected at least two"):
        photographs(tmp_path, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_the_command_writes_figures_and_a_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from loci.bench import metrics
    from loci.bench.world import photographs as module
    from loci.world.world import World

    monkeypatch.setattr(World, "from_pretrained", lambda _: small_world())
    monkeypatch.setattr(metrics, "Features", lambda: mean_color)
    monkeypatch.setattr(module, "engine_distance", lambda *_: 0.5)
    source = tmp_path / "source"
    source.mkdir()
    for name, color in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        Image.new("RGB", (32, 32), color).save(source / f"{name}.png")
    photographs(source, tmp_path / "out.json", sheet=tmp_path / "sheet.png")
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["photographs"]) == {"a.png", "b.png"}
    assert found["difference_of_walks"] == pytest.approx(found["between"] / 0.5)
    assert (tmp_path / "sheet.png").exists()
    assert "chance 0.50" in capsys.readouterr().out
