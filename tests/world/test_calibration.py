"""A world reads what was measured of it from its folder."""

from dataclasses import replace
from pathlib import Path

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.error_budget import ErrorScale
from loci.acceleration.presets import UNCALIBRATED, Preset, exact
from loci.acceleration.step_cache import StepCacheConfig
from loci.world.world import World
from tests.world.models import small_world
from tests.world.test_world import walked


def test_a_calibration_in_the_folder_changes_what_is_skipped(tmp_path: Path) -> None:
    world = small_world()
    world.config = replace(world.config, sampling=replace(world.config.sampling, steps=12))
    world.save_pretrained(tmp_path)
    made, notes = {}, {}
    for factor in (None, 1.0, 1e3):
        ModelCalibration(walk=None if factor is None else ErrorScale(factor)).write(tmp_path)
        fast = World.from_pretrained(tmp_path).at_speed(exact().within(0.5))
        walked(fast, 1)
        made[factor], notes[factor] = fast.stats.stage("sampling").evaluations, fast.stats.notes
    assert made[None] == made[1.0] < made[1e3]
    assert notes == {None: [UNCALIBRATED], 1.0: [], 1e3: []}
    own = Preset("own", walk=StepCacheConfig(tolerance=0.5, calibration=ErrorScale()))
    assert world.at_speed(own).stats.notes == []
