"""Named configurations: the released full-size model and the small ones we train."""

from loci.memory.addressing import POSE_FEATURES, PoseRotaryConfig
from loci.memory.hierarchical import HierarchicalMemoryConfig
from loci.memory.hpmc import HPMCConfig
from loci.memory.poses import ActionScale
from loci.memory.schedule import HierarchyConfig
from loci.world.conditioning import ActionEncoderConfig
from loci.world.rollout import SamplingConfig, WorldConfig
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
        memory=HPMCConfig(
            in_channels=16 + POSE_FEATURES,
            out_channels=_DOOM_WIDTH,
            hidden=64,
            heads=2,
            blocks_per_level=1,
            spatial_stride=2,
        ),
        reckoned=PoseRotaryConfig(blind=not reckoned),
        memory_stream="fixed",
        prediction="data",
        round_timestep=False,
    )


def doom_world() -> WorldConfig:
    """How the shipped model is walked: 64x64 frames, eight to a chunk, a latent per frame.

    The sampled latents themselves become the history: the codec works frame by frame, so nothing
    is gained by decoding and encoding them again.
    """
    return WorldConfig(
        size=(64, 64),
        fps=15,
        chunk=8,
        overlap=False,
        reencode=False,
        lag=True,
        codec="frame",
        text=False,
        moves=tuple(range(9)),
        views=(0, 3, 4),
        stride=ActionScale(),
        sampling=SamplingConfig(steps=8, shift=2.0, even=True, guidance=1.0),
        horizon=HierarchicalMemoryConfig(HierarchyConfig(window=8, budget=20, follow="views")),
    )
