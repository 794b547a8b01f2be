"""The default settings of worlds."""

from dataclasses import asdict

import pytest

from loci.io.config_files import config_from_dict, load_config
from loci.io.models import SHIPPED
from loci.world.conditioning import ActionEncoderConfig
from loci.world.config import SamplingConfig, WorldConfig, doom_world
from loci.world.text import TextEncoderConfig
from loci.world.transformer import TransformerConfig

SAMPLING = {
    "steps": 30,
    "shift": 7.0,
    "uniform": False,
    "guidance_scale": 5.0,
    "order": 1,
    "log_snr": None,
}
DEFAULTS = [
    (
        ActionEncoderConfig,
        {"vocabulary": 10, "embedding": 256, "hidden": 512, "groups": 2, "strides": (2, 2)},
    ),
    (SamplingConfig, SAMPLING),
    (
        WorldConfig,
        {
            "size": None,
            "fps": 30,
            "chunk": 80,
            "overlap": True,
            "reencode": True,
            "memory_excludes_local": False,
            "codec": "wan",
            "text": True,
            "moves": (),
            "views": (),
            "action_scale": None,
            "fov": None,
            "static": False,
            "sampling": SAMPLING,
            "memory": {
                "merging": {
                    "window": 64,
                    "budget": 20,
                    "recent": 0,
                    "merge_by": "age",
                    "keyframes": 0,
                },
                "published_windows": {"direct_limit": 80, "window": 64, "windows": 5},
                "batch": 16,
                "attended_keyframes": 0,
            },
        },
    ),
    (
        TextEncoderConfig,
        {
            "vocabulary": 256384,
            "dim": 4096,
            "heads": 64,
            "head_dim": 64,
            "ffn_dim": 10240,
            "layers": 24,
            "buckets": 32,
            "max_distance": 128,
            "length": 512,
        },
    ),
    (
        TransformerConfig,
        {
            "dim": 1536,
            "ffn_dim": 8960,
            "blocks": 30,
            "heads": 12,
            "frequencies": 256,
            "latent_channels": 16,
            "mask_channels": 4,
            "text_width": 4096,
            "eps": 1e-06,
            "actions": {
                "vocabulary": 10,
                "embedding": 256,
                "hidden": 512,
                "groups": 2,
                "strides": (2, 2),
            },
            "memory_encoder": {
                "in_channels": 16,
                "out_channels": 16,
                "hidden": 256,
                "heads": 8,
                "blocks_per_level": 2,
                "spatial_stride": 1,
                "groups": 32,
            },
            "pose_rotary": None,
            "memory_stream": "evolving",
            "prediction": "velocity",
            "round_timestep": True,
            "skip_head": 0,
        },
    ),
]


@pytest.mark.parametrize(("config", "defaults"), DEFAULTS)
def test_default_settings(config: type, defaults: dict) -> None:
    """Models saved without a setting are loaded with its default."""
    assert asdict(config()) == defaults


def test_the_settings_of_doom_are_those_that_are_shipped() -> None:
    shipped = load_config(SHIPPED / "doom" / "config.json", WorldConfig)
    made = doom_world()
    for field in ("size", "fps", "chunk", "overlap", "reencode", "codec", "moves", "views"):
        assert getattr(made, field) == getattr(shipped, field), field
    assert made.sampling == shipped.sampling


def test_settings_are_read_by_their_former_names() -> None:
    saved = {"sampling": {"even": True, "guidance": 2.0}, "lag": True}
    config = config_from_dict(WorldConfig, saved)
    assert (config.sampling.uniform, config.sampling.guidance_scale) == (True, 2.0)
    assert config.memory_excludes_local
