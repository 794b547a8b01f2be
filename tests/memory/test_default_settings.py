"""The default settings of memories."""

from dataclasses import asdict

import pytest

from loci.memory.hierarchical import MemoryConfig
from loci.memory.hpmc import HPMCConfig, WindowPlan
from loci.memory.pose_rotary import PoseRotaryConfig
from loci.memory.poses import ActionScale
from loci.memory.schedule import MergeConfig

DEFAULTS = [
    (
        PoseRotaryConfig,
        {
            "time": 4,
            "rows": 6,
            "columns": 6,
            "heading": 8,
            "place": (0.4, 0.8, 1.6, 3.2),
            "fov": 88.7,
            "time_only": False,
        },
    ),
    (
        MemoryConfig,
        {
            "merging": {"window": 8, "budget": 20, "recent": 0, "merge_by": "age", "keyframes": 0},
            "published_windows": None,
            "batch": 16,
            "attended_keyframes": 0,
        },
    ),
    (
        HPMCConfig,
        {
            "in_channels": 16,
            "out_channels": 16,
            "hidden": 256,
            "heads": 8,
            "blocks_per_level": 2,
            "spatial_stride": 1,
            "groups": 32,
        },
    ),
    (WindowPlan, {"direct_limit": 80, "window": 64, "windows": 5}),
    (ActionScale, {"turn": 0.1308996938995747, "move": 0.09375}),
    (MergeConfig, {"window": 8, "budget": 20, "recent": 0, "merge_by": "age", "keyframes": 0}),
]


@pytest.mark.parametrize(("config", "defaults"), DEFAULTS)
def test_default_settings(config: type, defaults: dict) -> None:
    """Models saved without a setting are loaded with its default."""
    assert asdict(config()) == defaults
