"""Named configurations: the released full-size model and the small ones we train."""

from loci.actions.encoder import ActionEncoderConfig
from loci.memory.compressor import LatentEncoderConfig
from loci.memory.reckoned import POSE_FEATURES, ReckonedConfig
from loci.world.transformer import TransformerConfig

_DOOM_WIDTH = 192


def infinite_world_transformer() -> TransformerConfig:
    """The released Infinite-World transformer: 1.45 billion parameters in 905 tensors."""
    return TransformerConfig()


def doom_transformer(reckoned: bool = True) -> TransformerConfig:
    """The shipped small model's transformer; `reckoned=False` is its rival, addressed by time."""
    return TransformerConfig(
        dim=_DOOM_WIDTH,
        ffn_dim=4 * _DOOM_WIDTH,
        layers=8,
        heads=3,
        frequencies=128,
        text_width=None,
        actions=ActionEncoderConfig(embedding=32, hidden=64, strides=(1, 1)),
        memory=LatentEncoderConfig(
            in_channels=16 + POSE_FEATURES,
            out_channels=_DOOM_WIDTH,
            hidden=64,
            heads=2,
            blocks_per_level=1,
            spatial_stride=2,
        ),
        reckoned=ReckonedConfig(blind=not reckoned),
        memory_stream="fixed",
        prediction="data",
    )
