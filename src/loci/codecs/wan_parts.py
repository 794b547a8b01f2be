"""The halves of Wan's autoencoder, each cut where its convolutions end or begin to be local.

The levels at high resolution are convolutions alone, so that they can be computed in tiles, and
their state recomputed from the last frames; the level at an eighth of the size attends to the whole
picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loci.codecs.tiles import Tile

Slots = list[Any]
"""What each causal convolution remembers of the frames before; filled in place."""
CACHED = 2
"""Frames that a causal convolution remembers."""


def encoder_halo(levels: int, blocks: int, side: int) -> int:
    """Latents to each side that the convolutions before the last level see."""
    pixels = 1
    for level in range(levels - 1):
        pixels += (2 * blocks + 1) * 2**level  # two convolutions a block, and the strided one
    return -(-pixels // side)


def decoder_halo(levels: int, blocks: int) -> int:
    """Latents to each side that the convolutions after the middle see."""
    latents = 0.0
    for level in range(levels):
        latents += 2 * (blocks + 1) / 2**level
        latents += (1 if level + 1 < levels else 0) / 2 ** (level + 1)
    latents += 1 / 2 ** (levels - 1)
    return int(-(-latents // 1))


def encoder_history(temporal_downsample: tuple[bool, ...], blocks: int) -> int:
    """Frames, 1 + a whole number of latents, that determine the state before the last level."""
    factor = 2 ** sum(temporal_downsample)
    reach, stride = CACHED, 1  # of the first convolution
    for shrinks in temporal_downsample:
        reach += CACHED * 2 * blocks * stride
        if shrinks:
            reach += stride  # one frame besides the pair that becomes one
            stride *= 2
    return 1 + factor * -(-(reach - 1) // factor)


def encode_early(encoder: Any, frames: Tensor, slots: Slots) -> tuple[Tensor, int]:
    """The levels before the last, of one piece of frames; how many slots they have."""
    index = [0]
    x = _convolved(encoder.conv_in, frames, slots, index)
    for layer in encoder.down_blocks[: -encoder.num_res_blocks]:
        x = layer(x, feat_cache=slots, feat_idx=index)
    return x, index[0]


def encode_late(encoder: Any, x: Tensor, slots: Slots, first: int) -> Tensor:
    """The last level, the middle and the head; their slots begin with number `first`."""
    index = [first]
    for layer in encoder.down_blocks[-encoder.num_res_blocks :]:
        x = layer(x, feat_cache=slots, feat_idx=index)
    x = encoder.mid_block(x, feat_cache=slots, feat_idx=index)
    x = encoder.nonlinearity(encoder.norm_out(x))
    return _convolved(encoder.conv_out, x, slots, index)


def early_features(
    encoder: Any, pieces: list[Tensor], history: list[Tensor], count: int, part: list[Tile]
) -> tuple[list[Tensor], int]:
    """The levels before the last, tile by tile, for every piece of frames.

    Args:
        encoder: of the autoencoder.
        pieces: 1, 4, 4, ... frames; after a history 4, 4, ...
        history: the last frames before them in such pieces, to know the state by; empty at the
            beginning of a clip.
        count: of slots.
        part: the tiles, on the grid of latents.

    Returns:
        The features of every piece, and how many slots these levels have.
    """
    side = 2 ** sum(hasattr(layer, "resample") for layer in encoder.down_blocks)
    height, width = (size // side for size in pieces[0].shape[-2:])
    whole: list[Tensor] = []
    used = 0
    for tile in part:
        rows, columns = tile.scaled(side)
        slots: Slots = [None] * count
        for piece in history:
            encode_early(encoder, piece[..., rows, columns], slots)
        for number, piece in enumerate(pieces):
            x, used = encode_early(encoder, piece[..., rows, columns], slots)
            if len(whole) <= number:
                whole.append(x.new_empty((*x.shape[:3], height, width)))
            keep_rows, keep_columns = tile.kept()
            whole[number][..., tile.inner[0], tile.inner[1]] = x[..., keep_rows, keep_columns]
    return whole, used


def decode_tiled(decoder: Any, latents: list[Tensor], count: int, part: list[Tile]) -> Tensor:
    """Frames of a whole clip: the middle of every latent, then the levels after it tile by tile.

    Args:
        decoder: of the autoencoder.
        latents: one at a time in time.
        count: of slots.
        part: the tiles, on the grid of latents.
    """
    slots: Slots = [None] * count
    features = []
    index = [0]
    for latent in latents:
        index = [0]
        x = _convolved(decoder.conv_in, latent, slots, index)
        features.append(decoder.mid_block(x, feat_cache=slots, feat_idx=index))
    first, frames = index[0], None
    del slots
    for tile in part:
        slots, made = [None] * count, []
        for number, x in enumerate(features):
            index = [first]
            x = x[..., tile.outer[0], tile.outer[1]]
            for block in decoder.up_blocks:
                x = block(x, feat_cache=slots, feat_idx=index, first_chunk=number == 0)
            x = decoder.nonlinearity(decoder.norm_out(x))
            made.append(_convolved(decoder.conv_out, x, slots, index))
        side = made[0].shape[-2] // (tile.outer[0].stop - tile.outer[0].start)
        keep_rows, keep_columns = tile.kept(side)
        clip = torch.cat([x[..., keep_rows, keep_columns] for x in made], dim=2)
        if frames is None:
            height, width = (size * side for size in latents[0].shape[-2:])
            frames = clip.new_empty((*clip.shape[:3], height, width))
        rows, columns = (slice(s.start * side, s.stop * side) for s in tile.inner)
        frames[..., rows, columns] = clip
    assert frames is not None
    return frames


def _convolved(conv: Any, x: Tensor, slots: Slots, index: list[int]) -> Tensor:
    """A causal convolution that continues its slot, as in the library's own forward pass."""
    place = index[0]
    before, remembered = slots[place], x[:, :, -CACHED:].clone()
    if remembered.shape[2] < CACHED and before is not None:
        remembered = torch.cat([before[:, :, -1:], remembered], dim=2)
    out = conv(x, before)
    slots[place] = remembered
    index[0] += 1
    return out
