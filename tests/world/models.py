"""Tiny worlds with random weights: real classes, small sizes."""

from dataclasses import replace

import torch

from loci.codecs.frame import FrameCodec, FrameCodecConfig
from loci.memory.hierarchical import MemoryConfig
from loci.memory.hpmc import HPMCConfig
from loci.memory.panorama_merge import POSE_FEATURES
from loci.memory.pose_rotary import PoseRotaryConfig
from loci.memory.poses import ActionScale
from loci.memory.schedule import MergeConfig
from loci.world.conditioning import ActionEncoderConfig
from loci.world.config import SamplingConfig, WorldConfig
from loci.world.transformer import TransformerConfig, WorldTransformer
from loci.world.world import World


def published_like(text_width: int | None = 24) -> TransformerConfig:
    """The published architecture, small."""
    return TransformerConfig(
        dim=60,
        ffn_dim=96,
        blocks=2,
        heads=3,
        frequencies=32,
        text_width=text_width,
        actions=ActionEncoderConfig(embedding=8, hidden=16),
        memory_encoder=HPMCConfig(hidden=32, heads=4),
    )


def pose_rotary_config(stream: str = "fixed") -> TransformerConfig:
    """The shipped model's architecture, small."""
    return TransformerConfig(
        dim=32,
        ffn_dim=48,
        blocks=2,
        heads=2,
        frequencies=32,
        text_width=None,
        actions=ActionEncoderConfig(embedding=8, hidden=16, strides=(1, 1)),
        memory_encoder=HPMCConfig(
            in_channels=16 + POSE_FEATURES,
            out_channels=32,
            hidden=32,
            heads=4,
            blocks_per_level=1,
            spatial_stride=2,
        ),
        pose_rotary=PoseRotaryConfig(time=1, rows=1, columns=1, heading=3, place=(1.0,)),
        memory_stream=stream,  # pyright: ignore[reportArgumentType]
        prediction="data",
        skip_head=16,
    )


def randomised(config: TransformerConfig, seed: int = 0) -> WorldTransformer:
    """Random weights everywhere, the head included, so that nothing is trivially zero."""
    torch.manual_seed(seed)
    model = WorldTransformer(config)
    model.init_weights(gate_bias=1.0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def with_keyframes(world: World, keyframes: int = 24, attended: int = 4) -> World:
    """The same world with a memory that keeps more keyframes than a chunk attends to."""
    merging = replace(world.config.memory.merging, budget=8 + keyframes, keyframes=keyframes)
    memory = replace(world.config.memory, merging=merging, attended_keyframes=attended)
    return World(replace(world.config, memory=memory), world.transformer, world.codec)


def small_world(seed: int = 0, reencode: bool = False, memory_excludes_local: bool = True) -> World:
    """A world like the shipped one: 32x32 frames, chunks of four."""
    torch.manual_seed(seed)
    codec = FrameCodec(FrameCodecConfig(patch_size=8, widths=(16,), norm_groups=4))
    config = WorldConfig(
        size=(32, 32),
        fps=15,
        chunk=4,
        overlap=False,
        reencode=reencode,
        memory_excludes_local=memory_excludes_local,
        codec="frame",
        text=False,
        action_scale=ActionScale(),
        sampling=SamplingConfig(steps=2, shift=2.0, uniform=True, guidance_scale=1.0),
        memory=MemoryConfig(MergeConfig(window=8, budget=20, merge_by="views")),
    )
    return World(config, randomised(pose_rotary_config(), seed), codec.eval().requires_grad_(False))


def like_the_shipped(side: int = 16, chunk: int = 8) -> World:
    """The settings of the shipped world and its memory of keyframes, with the smallest networks."""
    torch.manual_seed(0)
    config = World.from_pretrained("doom").config
    codec = FrameCodec(FrameCodecConfig(patch_size=8, widths=(16,), norm_groups=4))
    sampling = replace(config.sampling, steps=1, order=1)
    small = replace(config, size=(side, side), chunk=chunk, sampling=sampling)
    transformer = randomised(replace(pose_rotary_config(), blocks=1))
    return World(small, transformer, codec.eval().requires_grad_(False))
