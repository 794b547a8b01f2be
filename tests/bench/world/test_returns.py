"""`loci bench returns`: three rows of the same views."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loci.bench.world.drift import RETURN, long_walk, start_pictures
from loci.bench.world.returns import GAP, RETURNS_A_ROW, ROWS, SCALE, TILES, draw, returns
from loci.bench.world.trials import held_out_maps, make_trial
from loci.errors import LociError
from loci.world.world import World
from tests.bench.world.test_trials import needs_the_engine
from tests.world.models import small_world


def two_maps() -> tuple[int, int]:
    room, another = held_out_maps(2, 0)
    return room, another


def test_true_remembered_and_forgotten_views_stand_below_each_other(tmp_path: Path) -> None:
    needs_the_engine()
    world = small_world()
    trial = make_trial("spin", 88, *two_maps(), world)
    height, width = trial.truth.shape[1:3]
    sheet = np.asarray(draw(world, trial, seed=0))
    step = SCALE * (height + GAP)
    assert sheet.shape == (
        len(ROWS) * step - SCALE * GAP,
        TILES * SCALE * (width + GAP) - SCALE * GAP,
        3,
    )
    truth, remembered, forgotten = (sheet[k * step : k * step + SCALE * height] for k in range(3))
    assert (truth != remembered).any()
    assert (remembered != forgotten).any()
    small = Image.fromarray(truth[:, : SCALE * width]).resize((width, height))
    first = trial.truth[np.flatnonzero(trial.hidden)[0]]
    assert np.abs(np.asarray(small).astype(int) - first).mean() < 8


def test_too_short_a_spin_is_refused(tmp_path: Path) -> None:
    needs_the_engine()
    with pytest.raises(LociError, match="--length"):
        returns(tmp_path / "returns.png", length=50)
    assert not list(tmp_path.iterdir())


def test_the_default_walk_is_drawn_at_every_return_to_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = small_world()
    monkeypatch.setattr(World, "from_pretrained", lambda name: world)
    out = tmp_path / "walk.png"
    returns(out, walk=RETURN * 2 + 8)
    sheet = np.asarray(Image.open(out))
    height, width = 32, 32
    assert sheet.shape == (height, RETURNS_A_ROW * width, 3)
    (picture,) = start_pictures(world, 1, 0)
    walk = long_walk(world, picture, RETURN * 2, 0, {RETURN, RETURN * 2})
    for column, frame in enumerate([picture, walk.kept[RETURN], walk.kept[2 * RETURN]]):
        tile = sheet[:, column * width : (column + 1) * width]
        assert (tile[: height // 2] == frame[: height // 2]).all()
        assert (tile[height // 2 :] != frame[height // 2 :]).any()  # its number
    assert (sheet[:, 3 * width :] == 255).all()
    assert "2 returns" in capsys.readouterr().out
    with pytest.raises(LociError, match="--walk"):
        returns(out, walk=300)
