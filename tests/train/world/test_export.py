"""From finished runs to a model folder that walks."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.errors import LociError
from loci.train.world import export as shipping
from loci.train.world.export import EXAMPLE, SETTINGS, export_world, save_settings
from loci.world.config import doom_world
from loci.world.world import World
from tests.world.models import pose_rotary_config, randomised

pytest.importorskip("matplotlib", reason="the extra `train` is not installed")

LOG = '{"step": 1, "seconds": 2.0, "loss": 1.0, "psnr": 20.0}\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What the trainers of the codec and of the world leave, untrained."""
    codec, world = (tmp_path_factory.mktemp(name) for name in ("codec", "world"))
    FrameCodec(FrameCodecConfig(widths=(16,), norm_groups=4)).save_pretrained(codec / "final")
    randomised(pose_rotary_config()).save_pretrained(world / "final")
    settings = replace(doom_world(), size=(32, 48), fps=7)
    save_settings(world / "final", settings, np.full((32, 48, 3), 99, np.uint8))
    for run in (codec, world):
        (run / "log.jsonl").write_text(LOG)
    return codec, world


def test_a_model_is_shipped_and_shipped_again(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    export_world(*runs, out)
    (out / "README.md").write_text("the card")
    (out / "transformer" / "curves.png").write_text("old")
    export_world(*runs, out)
    assert (out / "README.md").read_text() == "the card"
    Image.open(out / "transformer" / "curves.png").verify()
    assert (out / "codec" / "log.jsonl").read_text() == LOG
    world = World.from_pretrained(out)
    assert (world.config.size, world.config.fps) == ((32, 48), 7), "as the recordings were"
    assert Image.open(out / "example.png").size == (384, 256)
    assert world.step(world.start(out / "example.png"), "w*8")[0].shape == (8, 32, 48, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_weights_are_averaged_with_another_model(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = World.from_pretrained(_exported(runs, tmp_path / "other"))
    with torch.no_grad():
        for weight in other.transformer.parameters():
            weight.add_(1.0)
    other.save_pretrained(tmp_path / "other2", torch.float32)
    export_world(*runs, tmp_path / "mine", tmp_path / "other2")
    alone = World.from_pretrained(tmp_path / "other").transformer.state_dict()
    mean = World.from_pretrained(tmp_path / "mine").transformer.state_dict()
    assert all((mean[k] - alone[k] - 0.5).abs().max() < 0.02 for k in alone)
    export_world(*runs, tmp_path / "more", tmp_path / "other2", average_share=0.75)
    more = World.from_pretrained(tmp_path / "more").transformer.state_dict()
    assert all((more[k] - alone[k] - 0.25).abs().max() < 0.02 for k in alone)
    with pytest.raises(LociError, match="--average-share: 1.5, expected a share from 0 to 1"):
        export_world(*runs, tmp_path / "no", tmp_path / "other2", average_share=1.5)
    wider = randomised(replace(pose_rotary_config(), ffn_dim=2 * pose_rotary_config().ffn_dim))
    World(other.config, wider, other.codec).save_pretrained(tmp_path / "wider", torch.float32)
    with pytest.raises(LociError, match="another configuration than the run's"):
        export_world(*runs, tmp_path / "no", tmp_path / "wider")
    assert not (tmp_path / "no").exists()


def _exported(runs: tuple[Path, Path], out: Path) -> Path:
    export_world(*runs, out)
    return out


def test_a_run_of_before_is_walked_as_doom_is(runs: tuple[Path, Path], tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(runs[1], older)
    for name in (SETTINGS, EXAMPLE):
        (older / "final" / name).unlink()
    out = tmp_path / "mine"
    export_world(runs[0], older, out)
    assert World.from_pretrained(out).config == doom_world()
    assert not (out / EXAMPLE).exists()


def test_what_fails_leaves_the_older_model(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "config.json").write_text("older")

    def broken(log: Path, image: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shipping, "draw_panels", broken)
    with pytest.raises(KeyboardInterrupt):
        export_world(*runs, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "config.json"]
    assert (out / "config.json").read_text() == "older"


def test_a_folder_of_other_things_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LociError, match="holds notes.txt already"):
        export_world(*runs, tmp_path)
    with pytest.raises(LociError, match="expected a finished training run"):
        export_world(runs[0], tmp_path, tmp_path / "out")
