"""From finished runs to a model folder that lifts, at toy size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from loci.acceleration.calibration import CALIBRATION_NAME, ModelCalibration
from loci.acceleration.error_budget import ErrorScale
from loci.data.objects.dataset import ObjectSet
from loci.errors import LociError
from loci.io.config_files import save_config
from loci.objects.config import home
from loci.objects.lifter import Lifter
from loci.objects.models.condition import EmbedderFuser
from loci.objects.models.slat_flow import SlatStatistics
from loci.objects.parts import PARTS
from loci.train.export_lifter import REPLACEABLE, Runs, choose_example, export_lifter
from loci.train.slat.flow import STATISTICS_NAME
from tests.bench.object_folders import write_tables
from tests.objects.lifters import small_modules

pytest.importorskip("matplotlib", reason="the extra `train` is not installed")

STATISTICS = SlatStatistics((0.5, -0.5, 0.0, 1.0), (1.0, 2.0, 0.5, 1.5))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    write_tables(folder / "train", [1])
    write_tables(folder / "test", [2])
    write_tables(folder / "test", [3], "CC0-1.0")
    return folder


def made_runs(folder: Path) -> Runs:
    """As the four trainings leave them."""
    runs = Runs(*(folder / name for name in Runs._fields))
    modules = cast(Any, small_modules())
    for name, run in runs.sources().items():
        modules[name].save_pretrained(run / "final" / name)
    modules["structure_decoder"].save_pretrained(runs.structure / "final" / "structure_decoder")
    save_config(runs.slat / "final" / STATISTICS_NAME, STATISTICS)
    for run in runs:
        lines = [
            {"step": 10, "seconds": 60.0, "loss": 1.0},
            {"step": 20, "seconds": 120.0, "loss": 0.5, "voxel_iou": 0.25, "final": True},
        ]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return made_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def shipped(runs: Runs, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shipped") / "home"
    export_lifter(runs, data, out)
    return out


def test_what_is_shipped_lifts_its_example(shipped: Path) -> None:
    assert {path.name for path in shipped.iterdir()} == REPLACEABLE - {CALIBRATION_NAME}
    lifter = Lifter.from_pretrained(shipped)
    assert lifter.config.input_size == 28
    assert lifter.config.structure == home().lifter.structure
    assert lifter.config.slat.statistics == STATISTICS
    for name, module in small_modules().items():
        loaded = lifter.loader.parts.load(name).state_dict()
        for key, tensor in module.state_dict().items():
            assert torch.equal(loaded[key], tensor.bfloat16()), f"{name}: {key}"
    asset = lifter(shipped / "example.png", shipped / "example_mask.png")
    assert asset.gaussians is not None
    assert len(asset.voxels) > 0


def test_all_that_was_trained_is_accounted_for(shipped: Path) -> None:
    card = (shipped / "README.md").read_text()
    assert "“Table 3” by Nobody (CC0-1.0)" in card
    assert "| `slat` | 20 steps, 2 minutes |" in card
    assert "| toys | [CC0-1.0]" in card
    for name in PARTS:
        assert f"| `{name}` |" in card
    assert "$" not in card
    credits = (shipped / "CREDITS.md").read_text()
    assert all(f"Table {seed}" in credits for seed in (1, 2, 3))
    for name in ("structure-vae", "structure", "slat-vae", "slat"):
        kept = shipped / "training" / name
        assert len((kept / "log.jsonl").read_text().splitlines()) == 2
        assert Image.open(kept / "curves.png").width > 500


def test_the_example_is_free_of_conditions_if_one_is(data: Path) -> None:
    test = ObjectSet.load(data / "test")
    assert test.records[choose_example(test)[0]].name == "toy-3"
    assert choose_example(ObjectSet.load(data / "train")) == (0, 0)
    mask = test.view(*choose_example(test)).mask.numpy()
    assert np.ptp(np.nonzero(mask)[0]) > 3


def test_an_older_model_is_replaced_and_nothing_else(
    runs: Runs, data: Path, shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shipped / "README.md").write_text("older")
    ModelCalibration(structure=ErrorScale(3.0)).write(shipped)
    export_lifter(runs, data, shipped)
    assert not (shipped / CALIBRATION_NAME).exists(), "measured on other weights"
    assert (shipped / "README.md").read_text().startswith("# Model card: `home`")
    assert "MB of weights" in capsys.readouterr().out
    notes = shipped / "notes.txt"
    notes.write_text("mine")
    before = sorted(shipped.rglob("*"))
    with pytest.raises(LociError, match=r"holds notes.txt already"):
        export_lifter(runs, data, shipped)
    assert sorted(shipped.rglob("*")) == before
    notes.unlink()


def test_parts_of_a_model_folder_are_kept(
    runs: Runs, data: Path, shipped: Path, tmp_path: Path
) -> None:
    """Stage 1 is trained anew, stage 2 stays."""
    stage1 = made_runs(tmp_path / "runs")
    fuser = cast(Any, small_modules()["structure_fuser"])
    fuser.idx_emb.data += 1
    fuser.save_pretrained(stage1.structure / "final" / "structure_fuser")
    out = tmp_path / "home"
    export_lifter(Runs(stage1.structure_vae, stage1.structure, shipped, shipped), data, out)
    older, newer = Lifter.from_pretrained(shipped), Lifter.from_pretrained(out)
    assert newer.config == older.config
    changed = []
    for name in PARTS:
        before, after = (x.loader.parts.load(name).state_dict() for x in (older, newer))
        assert before.keys() == after.keys()
        if any(not torch.equal(tensor, after[key]) for key, tensor in before.items()):
            changed.append(name)
    assert changed == ["structure_fuser"]
    assert "| `slat` | 20 steps, 2 minutes |" in (out / "README.md").read_text()
    logs = (folder / "training" / "slat" / "log.jsonl" for folder in (shipped, out))
    assert len({path.read_text() for path in logs}) == 1


def test_runs_that_do_not_fit_are_named(data: Path, tmp_path: Path) -> None:
    out, runs = tmp_path / "home", made_runs(tmp_path)
    with pytest.raises(LociError, match="nowhere: expected a finished training run"):
        export_lifter(runs._replace(slat=tmp_path / "nowhere"), data, out)
    other = cast(Any, small_modules()["structure_decoder"])
    other.out_layer[-1].bias.data += 1
    other.save_pretrained(runs.structure_vae / "final" / "structure_decoder")
    with pytest.raises(LociError, match="structure: trained with another decoder"):
        export_lifter(runs, data, out)
    same = cast(Any, small_modules()["structure_decoder"])
    same.save_pretrained(runs.structure_vae / "final" / "structure_decoder")
    fuser = cast(Any, small_modules()["slat_fuser"])
    picture = replace(fuser.config.picture, input_size=56)
    EmbedderFuser.from_config(replace(fuser.config, picture=picture)).save_pretrained(
        runs.slat / "final" / "slat_fuser"
    )
    with pytest.raises(LociError, match=r"slat: trained on pictures of 56 pixels, expected 28"):
        export_lifter(runs, data, out)
    assert not out.exists()
