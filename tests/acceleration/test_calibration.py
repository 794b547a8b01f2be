"""The calibration of a model: its file, and what tolerances mean with it."""

from pathlib import Path

import pytest

from loci.acceleration.calibration import CALIBRATION_NAME, ModelCalibration
from loci.acceleration.error_budget import ErrorScale
from loci.acceleration.presets import Preset, exact, fast, faster, get_preset
from loci.acceleration.published.published_presets import paper, released
from loci.acceleration.spectral import DecodingConfig, SpectralThresholds
from loci.acceleration.stats import Stats
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_cache import TokenCacheConfig
from loci.errors import LociError
from tests.acceleration.test_stats import BLOCKS, SCORES
from tests.acceleration.toy import INTERVAL, run, same, tokens

STRICT = ErrorScale(factor=8.0)
MILD = Preset("mild", StepCacheConfig(tolerance=0.03), TokenCacheConfig(tolerance=0.03))
CALIBRATION = ModelCalibration(
    STRICT, ErrorScale(2.0, 1.5), ErrorScale(4.0), SpectralThresholds(0.6, 0.4)
)


def test_a_calibration_is_kept_in_the_model_folder(tmp_path: Path) -> None:
    assert ModelCalibration.load_from(tmp_path) == ModelCalibration()
    CALIBRATION.write(tmp_path)
    assert ModelCalibration.load_from(tmp_path) == CALIBRATION
    ModelCalibration(walk=STRICT).write(tmp_path)
    assert ModelCalibration.load_from(tmp_path) == ModelCalibration(walk=STRICT)
    ModelCalibration().write(tmp_path)
    assert not (tmp_path / CALIBRATION_NAME).exists()


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"structure": {"factor": 0}}',
        '{"slat": {"power": "much"}}',
        '{"decoding": {"high": 0.1, "low": 0.2}}',
        '{"other": null}',
    ],
)
def test_a_damaged_calibration_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / CALIBRATION_NAME).write_text(content)
    with pytest.raises(LociError, match=CALIBRATION_NAME):
        ModelCalibration.load_from(tmp_path)


def test_a_calibration_changes_what_a_preset_skips() -> None:
    """Errors eight times as large as predicted: fewer steps are skipped for the same tolerance."""
    open_, strict = MILD, MILD.calibrated(CALIBRATION)
    counts = [len(run(s.structure_policy(INTERVAL))[1].evaluated) for s in (open_, strict)]
    assert counts[0] < counts[1] <= 25
    runs = [
        run(s.slat_policy(INTERVAL, SCORES, BLOCKS), start=tokens())[1] for s in (open_, strict)
    ]
    assert sum(map(len, (runs[0].evaluated,))) <= len(runs[1].evaluated)
    assert strict.calibrated(ModelCalibration(structure=ErrorScale())) == strict, (
        "its own calibration stays"
    )
    open_, strict = exact().within(0.03), exact().within(0.03).calibrated(CALIBRATION)
    walks = [run(s.walk_policy(), start=tokens())[1] for s in (open_, strict)]
    assert len(walks[0].evaluated) < len(walks[1].evaluated)


def test_a_tolerance_is_a_true_error() -> None:
    """With errors eight times as large as predicted, 0.08 allows what 0.01 allows without."""
    given = exact().within(0.08).calibrated(ModelCalibration(STRICT, STRICT, STRICT))
    plain = exact().within(0.01)
    assert same(run(given.structure_policy(INTERVAL))[0], run(plain.structure_policy(INTERVAL))[0])


def test_uncalibrated_tolerances_are_reported() -> None:
    assert exact().uncalibrated == released().uncalibrated == paper().uncalibrated == ()
    assert MILD.uncalibrated == ("structure", "slat")
    assert fast().uncalibrated == faster().uncalibrated == (), "fewer steps need no calibration"
    assert fast().within(0.1).uncalibrated == ("structure", "slat", "walk")
    assert MILD.calibrated(CALIBRATION).uncalibrated == ()
    assert fast().within(0.1).calibrated(ModelCalibration(walk=STRICT)).uncalibrated == (
        "structure",
        "slat",
    )
    assert fast().within(0.0).uncalibrated == ()
    own = Preset("own", StepCacheConfig(tolerance=0.1, calibration=ErrorScale()))
    assert own.uncalibrated == ()
    assert Preset("carve", walk=TokenCacheConfig()).uncalibrated == ("walk",)


def test_published_presets_keep_their_thresholds() -> None:
    preset = faster().calibrated(CALIBRATION)
    assert preset.decoding == DecodingConfig(0.6, 0.4)
    own = Preset("own", decoding=DecodingConfig(0.9, 0.1))
    assert own.calibrated(CALIBRATION) == own
    for name in ("exact", "released", "paper"):
        assert get_preset(name).calibrated(CALIBRATION) == get_preset(name)


def test_a_note_is_printed_once() -> None:
    stats = Stats()
    for _ in range(2):
        stats.note("not calibrated")
    assert stats.table().splitlines()[1:] == ["(not calibrated)"]
