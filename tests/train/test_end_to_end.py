"""From recordings and objects on disk to models that walk, by the commands a user types."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from loci import cli
from loci.actions import UNCERTAIN
from loci.data.recordings import Clip, write_recordings
from loci.envs.base import EnvironmentInfo
from loci.errors import LociError
from loci.train.world.batches import HistorySpec
from loci.train.world.config import TrainingStage, WorldTraining
from loci.train.world.train import train_world
from loci.world.world import World
from tests.bench.object_folders import write_tables
from tests.train.slat.test_flow import TINY as SLAT
from tests.train.slat.test_vae import TINY as SLAT_VAE
from tests.train.structure.test_flow import TINY as STRUCTURE
from tests.world.models import pose_rotary_config

pytest.importorskip("accelerate", reason="the extra `train` is not installed")
pytest.importorskip("matplotlib", reason="the extra `train` is not installed")

FRAMES, SIDE = 96, 32


def record_turns(folder: Path, episodes: int, seed: int) -> None:
    """Colours that follow the heading of a walker that turns."""
    rng = np.random.default_rng(seed)
    views = rng.choice([3, 4], (episodes, FRAMES))
    heading = np.cumsum(np.where(views == 3, 10.0, -10.0), axis=1) - 10
    angle = np.radians(heading)[..., None] + np.linspace(0, 2, SIDE)
    stripes = 127 + 120 * np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle)], axis=-1)
    frames = np.broadcast_to(stripes[:, :, None], (episodes, FRAMES, SIDE, SIDE, 3))
    poses = np.stack([0 * heading, 0 * heading, heading], axis=-1)
    actions = np.stack([np.zeros_like(views), views], axis=-1)
    info = EnvironmentInfo("stripes", (SIDE, SIDE), 7, None, 6.0, 10.0, 64)
    write_recordings(folder, map(Clip, frames, actions, poses), info)


def test_recordings_become_a_world_that_walks(tmp_path: Path) -> None:
    record_turns(tmp_path / "data" / "train", 3, seed=0)
    record_turns(tmp_path / "data" / "test", 2, seed=1)
    record_turns(tmp_path / "more", 2, seed=2)
    codec = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "codec"), "--steps", "3"]
    codec += ["--codec.widths", "16", "--codec.norm-groups", "4", "--batch-size", "4"]
    assert cli.main(["train", "codec", "smooth", *codec]) == 0
    config = WorldTraining(
        data=tmp_path / "data",
        out=tmp_path / "world",
        codec=tmp_path / "codec" / "final",
        more_data=(tmp_path / "more",),
        model=pose_rotary_config(),
        stages=(TrainingStage(1.0, (HistorySpec((2, 0, 0)), HistorySpec((0, 0, 0)))),),
        steps=2,
        batch_size=2,
    )
    train_world(config)
    (final,) = [json.loads(x) for x in (tmp_path / "world" / "log.jsonl").read_text().splitlines()]
    assert {"near_true", "near_wrong", "near_none", "near_ceiling"} < final.keys()
    assert "whole_true" not in final, "the walks are too short for that"
    parts = ["--codec", str(tmp_path / "codec"), "--world", str(tmp_path / "world")]
    assert cli.main(["train", "export-world", *parts, "--out", str(tmp_path / "mine")]) == 0
    world = World.from_pretrained(tmp_path / "mine")
    assert world.config.size == (SIDE, SIDE)
    assert world.config.fps == 7
    assert world.config.views == (3, 4)
    assert UNCERTAIN not in world.config.moves
    assert world.config.action_scale is not None
    assert world.config.action_scale.turn == pytest.approx(np.radians(10))
    assert world.config.action_scale.move == pytest.approx(6 / 64)
    frames, _ = world.step(world.start(tmp_path / "mine" / "example.png"), [(0, 3)] * 8)
    assert frames.shape == (8, SIDE, SIDE, 3)


def test_all_sets_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first set's walks and the further sets' walks, and those of another form are named."""
    from loci.train.world import train

    record_turns(tmp_path / "data" / "train", 3, seed=0)
    record_turns(tmp_path / "data" / "test", 1, seed=1)
    record_turns(tmp_path / "more", 2, seed=2)
    codec = Path(__file__).parents[2] / "src" / "loci" / "shipped" / "doom" / "codec"
    drawn: list[int] = []

    def fit(_: train.Trainer, task: train.WorldTask) -> SimpleNamespace:
        drawn.append(task.source.walks.count)
        return SimpleNamespace(transformer=None)

    monkeypatch.setattr(train.Trainer, "fit", fit)
    config = WorldTraining(
        data=tmp_path / "data",
        out=tmp_path / "run",
        codec=codec,
        more_data=(tmp_path / "more",),
        model=replace(pose_rotary_config(), latent_channels=48),
        stages=(TrainingStage(1.0, (HistorySpec((2, 0, 0)),)),),
        steps=1,
    )
    train_world(config)
    assert drawn == [5]
    clip = np.zeros((FRAMES, 64, 64, 3), np.uint8), np.zeros((FRAMES, 2), np.uint8)
    write_recordings(
        tmp_path / "other", [Clip(*clip)], EnvironmentInfo("other", (64, 64), 7, None, 6.0, 10.0)
    )
    with pytest.raises(LociError, match=r"other: frames \(96, 64, 64, 3\), expected \(96, 32"):
        train_world(replace(config, more_data=(tmp_path / "other",)))


def test_walks_that_are_too_short_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        record_turns(tmp_path / "data" / split, 1, seed=0)
    codec = Path(__file__).parents[2] / "src" / "loci" / "shipped" / "doom" / "codec"
    given = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert cli.main(["train", "world", *given, "--codec", str(codec)]) == 2
    assert "walks of 96 frames are too short for stage 1 of 3" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_objects_become_the_parts_of_a_lifter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four trainings on the same folder, each by its command."""
    from loci.train.slat import flow as slat
    from loci.train.slat import vae as slat_vae
    from loci.train.structure import flow as structure

    write_tables(tmp_path / "train", [1, 2])
    write_tables(tmp_path / "test", [3])
    torso = replace(SLAT_VAE.parts.encoder.torso, resolution=32)
    parts = replace(
        SLAT_VAE.parts,
        encoder=replace(SLAT_VAE.parts.encoder, torso=torso),
        gaussians=replace(
            SLAT_VAE.parts.gaussians, torso=replace(SLAT_VAE.parts.gaussians.torso, resolution=32)
        ),
        mesh=replace(SLAT_VAE.parts.mesh, torso=replace(SLAT_VAE.parts.mesh.torso, resolution=32)),
    )
    tiny = replace(STRUCTURE, flow=replace(STRUCTURE.flow, resolution=4, shape_channels=4))
    monkeypatch.setitem(structure.CONFIGS, "home", replace(tiny, batch_size=2))
    monkeypatch.setitem(slat_vae.CONFIGS, "home", replace(SLAT_VAE, parts=parts))
    monkeypatch.setitem(slat.CONFIGS, "home", SLAT)
    runs = {name: tmp_path / name for name in ("structure-vae", "structure", "slat-vae", "slat")}
    sizes = ["--encoder.latent-channels", "4", "--encoder.channels", "8", "4"]
    sizes += ["--decoder.latent-channels", "4", "--decoder.channels", "8", "4", "4", "4"]
    options = {
        "structure-vae": [*sizes, "--batch-size", "2"],
        "structure": ["--codec", str(runs["structure-vae"])],
        "slat": ["--vae", str(runs["slat-vae"])],
    }
    for name, out in runs.items():
        given = ["--data", str(tmp_path), "--out", str(out), "--steps", "2"]
        assert cli.main(["train", name, *given, *options.get(name, [])]) == 0
    saved = {path.name for out in runs.values() for path in (out / "final").iterdir()}
    assert saved == {
        *("structure_encoder", "structure_decoder", "structure_fuser", "structure_flow"),
        *("latent_encoder", "gaussian_decoder", "mesh_decoder", "slat_fuser", "slat_flow"),
        "latent_statistics.json",
    }
    for out in runs.values():
        last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        assert last["final"]
        assert all(np.isfinite(value) for value in last.values())
