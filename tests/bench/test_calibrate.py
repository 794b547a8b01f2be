"""`loci bench calibrate` on tiny models with random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loci.acceleration.calibration import CALIBRATION_NAME, ModelCalibration
from loci.acceleration.error_budget import ErrorScale
from loci.acceleration.presets import exact
from loci.acceleration.stats import Stats
from loci.bench import calibrate_walks as world_calibrate
from loci.bench.calibrate import calibrate
from loci.bench.calibrate_lifts import TOLERANCES, ToleranceSampler, fit_calibration
from loci.bench.calibrate_walks import read_walks, walk_errors
from loci.bench.tolerances import ToleranceError
from loci.data.recordings import shard_path, write_meta, write_shard
from loci.errors import LociError
from loci.objects.lifter import Lifter
from loci.objects.sampling import StructureSampling
from loci.world.world import World
from tests.bench.object_folders import write_tables
from tests.objects.lifters import example, small_lifter
from tests.world.models import small_world


def test_a_model_reads_what_was_measured_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = tmp_path / "model", tmp_path / "objects"
    small_lifter(structure=StructureSampling(steps=8)).save_pretrained(model)
    write_tables(data / "train", [1])
    write_tables(data / "test", [2])
    ModelCalibration(walk=ErrorScale(5.0)).write(model)
    calibrate(str(model), data, train=1, held_out=1, json=tmp_path / "tolerances.json")
    calibration = Lifter.from_pretrained(model).calibration
    assert calibration.structure is not None
    assert calibration.decoding is not None
    assert calibration.walk == ErrorScale(5.0)
    printed = capsys.readouterr().out
    assert "share within" in printed
    assert CALIBRATION_NAME in printed
    assert (tmp_path / "tolerances.json").exists()
    stats = Stats()
    speed = exact().within(TOLERANCES[-1])
    Lifter.from_pretrained(model)(*example(), seed=0, speed=speed, stats=stats)
    assert (stats.notes == []) == (calibration.slat is not None)


def test_a_world_reads_what_was_measured_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrained, so lines go wrong at once: with many steps there is something to skip."""
    monkeypatch.setattr(world_calibrate, "TOLERANCES", (0.2, 0.4))
    model, data = tmp_path / "model", tmp_path / "walks"
    world = small_world()
    world.config = replace(world.config, sampling=replace(world.config.sampling, steps=10))
    world.save_pretrained(model)
    for part in ("train", "test"):
        write_walk(data / part, 1 + world.chunk_frames)
    calibrate(str(model), data, train=1, held_out=1)
    scale = World.from_pretrained(model).calibration.walk
    assert scale is not None
    (walk,) = read_walks(data / "test", 1)
    assert walk.actions.shape == (1 + world.chunk_frames, 2)
    errors = walk_errors(world, [walk], ModelCalibration(walk=ErrorScale(1e4)), 0)
    assert {error.error for error in errors} == {0.0}


def write_walk(folder: Path, frames: int) -> None:
    """One walk past noise, as `loci data doom` would leave it."""
    rng = np.random.default_rng(0)
    sizes = {"version": 1, "episodes": 1, "frames": frames, "frame_size": 32}
    write_meta(folder, sizes | {"episodes_per_shard": 1})
    arrays = {
        "frames": rng.integers(0, 256, (1, frames, 32, 32, 3), np.uint8),
        "poses": np.zeros((1, frames, 3), np.float32),
        "actions": rng.integers(0, 3, (1, frames, 2), np.uint8),
        "kinds": np.zeros(1, np.uint8),
        "map_seeds": np.zeros(1, np.int64),
    }
    write_shard(shard_path(folder, 0), arrays)


def test_a_calibration_is_fitted_to_errors() -> None:
    sampler = ToleranceSampler(ModelCalibration())
    with pytest.raises(LociError, match="no object can be lifted"):
        fit_calibration(sampler, ModelCalibration())
    sampler.spectral_ratios = [0.1, 0.2, 0.3, 0.4]
    sampler.errors["structure"] = [ToleranceError(t, 3 * t) for t in TOLERANCES]
    sampler.errors["slat"] = [ToleranceError(t, 0.0) for t in TOLERANCES]
    old = ModelCalibration(slat=ErrorScale(2.0), walk=ErrorScale(7.0))
    fitted = fit_calibration(sampler, old)
    assert fitted.structure is not None
    assert fitted.structure.true(0.1) == pytest.approx(0.3)
    assert fitted.slat is None, "nothing was skipped"
    assert fitted.walk == ErrorScale(7.0)
    assert fitted.decoding is not None
    assert (fitted.decoding.high, fitted.decoding.low) == pytest.approx((0.3, 0.2))


def test_missing_data_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    data, model = tmp_path / "data", tmp_path / "model"
    small_world().save_pretrained(model)
    with pytest.raises(LociError, match=f"loci data doom --out {data}/train --split train"):
        calibrate(str(model), data)
    with pytest.raises(LociError, match=f"&& loci data objects .* --out {data}"):
        calibrate("home", data)


def test_models_without_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="owner/name: no such model folder"):
        calibrate("owner/name", tmp_path)
    with pytest.raises(LociError, match="--train: 0, expected at least 1"):
        calibrate("home", tmp_path, train=0)
