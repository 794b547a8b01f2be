"""A labelled film, a model to begin with, and a world of the film, by the commands of a user."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loci import cli
from loci.data.films import assemble, describe_film, write_film
from loci.train.world import config as configs
from loci.train.world.batches import HistorySpec
from loci.train.world.config import CONFIGS, TrainingStage
from loci.world.transformer import WorldTransformer
from loci.world.world import World
from tests.world.models import pose_rotary_config, small_world

pytest.importorskip("accelerate", reason="the extra `train` is not installed")
pytest.importorskip("matplotlib", reason="the extra `train` is not installed")

FRAMES, SIDE, FOV = 400, 32, 51.0


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A film of stripes that turn to the left, to the right, or stand; labels of half of it."""
    rng = np.random.default_rng(0)
    turn = np.repeat(rng.choice([-4.0, 0.0, 4.0], FRAMES // 8), 8)
    heading = np.cumsum(turn) - turn
    angle = np.radians(heading)[:, None] - np.linspace(0, 1, SIDE)
    stripes = 127 + 120 * np.stack([np.sin(angle), np.cos(angle), np.sin(3 * angle)], axis=-1)
    frames = np.broadcast_to(stripes[:, None], (FRAMES, SIDE, SIDE, 3))
    views = np.where(rng.random(FRAMES) < 0.5, 9, np.select([turn > 0, turn < 0], [3, 4], 0))
    actions = np.column_stack([np.where(rng.random(FRAMES) < 0.5, 9, 0), views])
    clip = tmp_path / "labels" / "clips" / "film"
    clip.mkdir(parents=True)
    write_film(clip, frames, actions, np.column_stack([0 * turn, 0 * turn, heading]))
    describe_film(clip, [0], 15.0, FOV, 4.0)
    assemble(tmp_path / "labels", 96)
    return tmp_path / "labels"


def test_a_labelled_film_becomes_a_world(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = small_world()
    start.config = replace(start.config, moves=(0, 1), views=(0, 3, 4), fov=88.7)
    start.save_pretrained(tmp_path / "start")
    stages = (TrainingStage(1.0, (HistorySpec((2, 0, 0)), HistorySpec((0, 0, 0)))),)
    tiny = replace(CONFIGS["film"], model=pose_rotary_config(), stages=stages, batch_size=2)
    monkeypatch.setitem(configs.CONFIGS, "film", tiny)
    given = ["--data", str(labels), "--init-from", str(tmp_path / "start"), "--steps", "2"]
    given += ["--learning-rate", "1e-9", "--label-dropout", "0.1"]
    run, out = tmp_path / "run", tmp_path / "mine"
    assert cli.main(["train", "world", "film", *given, "--out", str(run)]) == 0
    assert cli.main(["train", "export-world", "--world", str(run), "--out", str(out)]) == 0

    world = World.from_pretrained(out)
    rotary = world.transformer.config.pose_rotary
    assert rotary is not None
    assert rotary.fov == world.config.fov == FOV, "as filmed, not as the first model was"
    assert world.config.size == (SIDE, SIDE)
    assert world.config.moves == (0, 1), "known to the first model; nobody walks in the film"
    assert world.config.action_scale is not None
    assert world.config.action_scale.turn == pytest.approx(np.radians(4.0))
    first, mine = start.transformer.state_dict(), world.transformer.state_dict()
    assert all(torch.allclose(first[name], mine[name], atol=0.02) for name in first)
    codec = start.codec.state_dict()
    assert all(torch.allclose(codec[n], t, atol=0.02) for n, t in world.codec.state_dict().items())
    walk = ["walk", str(out / "example.png"), "--model", str(out), "--keys", "wj*8"]
    assert cli.main([*walk, "--out", str(tmp_path / "walk.mp4")]) == 0


def test_an_older_run_without_its_codec_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WorldTransformer(pose_rotary_config()).save_pretrained(tmp_path / "run" / "final")
    argv = ["train", "export-world", "--world", str(tmp_path / "run"), "--out", str(tmp_path / "x")]
    assert cli.main(argv) == 2
    assert "without its codec; expected --codec as well" in capsys.readouterr().err
