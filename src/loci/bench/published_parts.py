"""Networks of both published models at full width, random weights, for `loci bench published`.

Each part is a function without arguments that evaluates it once. Blocks that repeat are fewer where
that is asked for: what is outside of them then weighs more than it does in the whole network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from loci.codecs.wan import WanCodec
from loci.memory.hpmc import HPMCConfig, HPMCEncoder
from loci.nn.sparse.voxels import Voxels
from loci.objects.models.dinov2 import DinoConfig, DinoEmbedder, DinoEmbedderConfig
from loci.objects.models.slat_decoders import (
    GaussianDecoder,
    GaussianDecoderConfig,
    MeshDecoder,
    MeshDecoderConfig,
    TorsoConfig,
)
from loci.objects.models.slat_flow import SlatFlow, SlatFlowConfig
from loci.objects.models.structure_flow import StructureFlow, StructureFlowConfig
from loci.objects.models.structure_vae import StructureDecoder
from loci.world.conditioning import Actions, Prompt
from loci.world.text import TextEncoder, TextEncoderConfig
from loci.world.transformer import TransformerConfig, WorldTransformer

CONDITION_TOKENS = 7528
"""Tokens of the picture, its mask and its pointmap, in stage 1 of a lift."""
TEXT_LENGTH = 512
GRID = 64
"""Voxels along the side of an object."""


class Part(NamedTuple):
    """A network, how much of it, and one evaluation."""

    what: str
    call: Callable[[], object]


def makers(dtype: torch.dtype, layers: int) -> dict[str, Callable[[], Part]]:
    """How each part is made, by name: one at a time, since each holds its weights."""
    return {
        "structure-flow": lambda: structure_flow(dtype, layers),
        "slat-flow-10k": lambda: slat_flow(dtype, layers, 10_000),
        "slat-flow-20k": lambda: slat_flow(dtype, layers, 20_000),
        "image-encoder": lambda: image_encoder(dtype, layers),
        "structure-decoder": lambda: structure_decoder(dtype),
        "splat-decoder": lambda: splat_decoder(dtype, layers, 10_000),
        "mesh-decoder": lambda: mesh_decoder(dtype, layers, 2_500),
        "world": lambda: world_transformer(dtype, layers),
        "memory": lambda: memory_compressor(dtype),
        "frame-encoder": lambda: frame_encoder(dtype),
        "frame-decoder": lambda: frame_decoder(dtype),
        "text-encoder": lambda: text_encoder(dtype, layers),
    }


def structure_flow(dtype: torch.dtype, layers: int = 1) -> Part:
    """A conditional evaluation of stage 1, keys of the condition cached as in a run."""
    flow = StructureFlow(replace(StructureFlowConfig(), blocks=layers)).to(dtype).eval()
    noise = flow.noise(1, torch.Generator().manual_seed(0))
    context = flow.context(torch.randn(1, CONDITION_TOKENS, flow.config.condition_dim))
    time = torch.full((1,), 250.0)
    what = f"structure flow, {flow.config.resolution**3} tokens, {layers} of 24 blocks"
    return Part(what, lambda: flow.velocity(noise, time, context, time * 0))


def slat_flow(dtype: torch.dtype, layers: int, count: int) -> Part:
    """A conditional evaluation of stage 2."""
    flow = SlatFlow(replace(SlatFlowConfig(), blocks=layers)).to(dtype).eval()
    voxels = shell(count)
    latents, time = torch.randn(len(voxels), flow.config.channels), torch.full((1,), 250.0)
    context = flow.context(torch.randn(1, CONDITION_TOKENS, flow.config.condition_dim))
    what = f"SLAT flow, {len(voxels)} voxels, {layers} of 24 blocks"
    return Part(what, lambda: flow.velocity(latents, time, voxels, context))


def image_encoder(dtype: torch.dtype, layers: int = 1) -> Part:
    """Tokens of one picture."""
    config = DinoEmbedderConfig(replace(DinoConfig(), depth=layers))
    encoder = DinoEmbedder(config).to(dtype).eval()
    picture = torch.rand(1, 3, config.input_size, config.input_size).to(dtype)
    return Part(f"image encoder, one picture, {layers} of 24 blocks", lambda: encoder(picture))


def structure_decoder(dtype: torch.dtype) -> Part:
    """Latents of stage 1 to occupancy."""
    decoder = StructureDecoder().to(dtype).eval()
    tokens = torch.randn(1, 16**3, 8).to(dtype)
    return Part("structure decoder", lambda: decoder(tokens))


def splat_decoder(dtype: torch.dtype, layers: int, count: int) -> Part:
    """Structured latents to the raw channels of splats."""
    torso = replace(TorsoConfig(), blocks=layers)
    decoder = GaussianDecoder(replace(GaussianDecoderConfig(), torso=torso))
    return _decoding("splat decoder", decoder.to(dtype), torso, count)


def mesh_decoder(dtype: torch.dtype, layers: int, count: int) -> Part:
    """Structured latents to features of the finest voxels, without the surface."""
    torso = replace(TorsoConfig(), blocks=layers)
    decoder = MeshDecoder(replace(MeshDecoderConfig(), torso=torso))
    return _decoding("mesh decoder", decoder.to(dtype), torso, count)


def _decoding(name: str, decoder: nn.Module, torso: TorsoConfig, count: int) -> Part:
    voxels = shell(count)
    latents = torch.randn(len(voxels), torso.channels)
    what = f"{name}, {len(voxels)} voxels, {torso.blocks} of 12 blocks"
    decoder.eval()
    return Part(what, lambda: decoder(latents, voxels))


def world_transformer(dtype: torch.dtype, layers: int = 1, frames: int = 6, side: int = 40) -> Part:
    """A velocity for one prompt.

    Args:
        dtype: type of the weights.
        layers: blocks.
        frames: noisy latents, beside two of memory.
        side: side of a latent; a quarter of its square is the number of tokens.
    """
    model = WorldTransformer(replace(TransformerConfig(), blocks=layers)).to(dtype).eval()
    local = torch.randn(1, 16, 1, side, side)
    ids = torch.zeros(1, 4 * (frames - 1) + 1, dtype=torch.long)
    prompt = Prompt(torch.randn(1, TEXT_LENGTH, 4096), torch.ones(1, TEXT_LENGTH))
    context = model.context(local, local, Actions(ids, ids), prompt)
    noisy, timestep = torch.randn(1, 16, frames, side, side), torch.full((1,), 900.0)
    what = f"world transformer, {frames * (side // 2) ** 2} tokens, {layers} of 30 blocks"
    return Part(what, lambda: model.velocity(noisy, timestep, context))


def memory_compressor(dtype: torch.dtype) -> Part:
    """Eight latents of 256x256 pixels to two."""
    encoder = HPMCEncoder(HPMCConfig()).to(dtype).eval()
    latents = torch.randn(1, 16, 8, 32, 32)
    return Part("memory compressor, 8 latents of 256x256", lambda: encoder(latents))


def frame_encoder(dtype: torch.dtype) -> Part:
    """The first frame of a walk."""
    codec = WanCodec().to(dtype).eval()
    frames = torch.rand(1, 3, 1, 256, 256).to(dtype)
    return Part("frame encoder, one frame of 256x256", lambda: codec.encode_stream(frames))


def frame_decoder(dtype: torch.dtype) -> Part:
    """A latent of a walk to its first frame."""
    codec = WanCodec().to(dtype).eval()
    latents = torch.randn(1, 16, 1, 32, 32).to(dtype)
    return Part("frame decoder, one frame of 256x256", lambda: codec.decode(latents))


def text_encoder(dtype: torch.dtype, layers: int = 1) -> Part:
    """A prompt of 128 tokens; the vocabulary is left small, since looking it up costs nothing."""
    config = replace(TextEncoderConfig(), layers=layers, vocabulary=512)
    encoder = TextEncoder(config).to(dtype).eval()
    ids = torch.arange(128)[None]
    what = f"text encoder, 128 tokens, {layers} of 24 blocks"
    return Part(what, lambda: encoder(ids, torch.ones_like(ids)))


def shell(count: int) -> Voxels:
    """`count` voxels at the surface of a sphere within the grid of an object."""
    axis = torch.arange(GRID) - (GRID - 1) / 2
    radius = torch.cartesian_prod(axis, axis, axis).norm(dim=1)
    surface = min((count / (4 * torch.pi)) ** 0.5, 0.44 * GRID)
    nearest = (radius - surface).abs().argsort(stable=True)[:count]
    coords = torch.cartesian_prod(*(torch.arange(GRID),) * 3)[nearest.sort().values]
    return Voxels(torch.cat([torch.zeros(count, 1, dtype=torch.long), coords], dim=1))
