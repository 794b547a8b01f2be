"""Model settings that a training takes from its recordings: frames, rate, camera and actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from loci.actions import UNCERTAIN
from loci.codecs.frame import FrameCodec
from loci.data.recordings import Recordings
from loci.errors import LociError
from loci.world.block import PATCH
from loci.world.config import WorldConfig
from loci.world.transformer import TransformerConfig

MIN_SHARE = 0.002
"""The least share of frames with an action; one seen less often cannot be learned, and is not
offered."""


def check_size(
    recordings: Recordings, codec: FrameCodec, model: TransformerConfig, folder: Path
) -> None:
    """That frames divide into latents, and latents into tokens.

    Raises:
        LociError: naming the sizes that do.
    """
    encoder = model.memory_encoder
    sides = codec.spatial_factor * max(PATCH, encoder.spatial_stride)
    height, width = recordings.info.frame_size
    if height % sides or width % sides:
        raise LociError(
            f"{folder}: frames of {height}x{width}, expected multiples of {sides} for this codec"
        )


def with_fov(model: TransformerConfig, fov: float | None) -> TransformerConfig:
    """The same model for cameras of a horizontal field of view in degrees, if it is known: no
    weight depends on it, only the angles by which columns are addressed."""
    if fov is None or model.pose_rotary is None:
        return model
    return replace(model, pose_rotary=replace(model.pose_rotary, fov=fov))


def check_same_form(recordings: Recordings, first: Recordings, folder: Path) -> Recordings:
    """Returns the recordings, if they can be trained on beside the first.

    Raises:
        LociError: when their frames, units or addressing differ.
    """
    fov, first_fov = (round(r.info.fov_degrees or 0.0, 1) for r in (recordings, first))
    for what, found, expected in (
        ("frames", recordings.frames.shape[1:], first.frames.shape[1:]),
        ("field of view", fov, first_fov),
        ("actions", recordings.info.action_scale, first.info.action_scale),
        ("addressed by", recordings.addressed_by, first.addressed_by),
    ):
        if found != expected:
            raise LociError(f"{folder}: {what} {found}, expected {expected} as in the other data")
    return recordings


def with_recording_settings(world: WorldConfig, recordings: Recordings) -> WorldConfig:
    """The configuration with what the recordings say: the size of frames, their rate and field of
    view, the actions that occur, and what an action does. A filmed world is never static."""
    info = recordings.info
    moves, views = (frequent_ids(recordings.actions[..., i]) for i in range(2))
    return replace(
        world,
        size=tuple(info.frame_size),
        fps=round(info.fps),
        fov=info.fov_degrees,
        static=world.static and info.environment != "film",
        moves=moves,
        views=views,
        action_scale=info.action_scale or world.action_scale,
    )


def with_actions_of(start: WorldConfig, world: WorldConfig) -> WorldConfig:
    """`world` with the actions that the model of `start`, which training begins with, knows too."""

    def both(known: tuple[int, ...], found: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({*known, *found})) if known else ()

    return replace(
        world, moves=both(start.moves, world.moves), views=both(start.views, world.views)
    )


def frequent_ids(ids: Int[np.ndarray, "e t"]) -> tuple[int, ...]:
    """The ids that are seen often enough to be learned, without "uncertain"; at least no-op."""
    counts = np.bincount(ids.ravel(), minlength=UNCERTAIN + 1)[:UNCERTAIN]
    often = np.flatnonzero(counts >= max(1, MIN_SHARE * ids.size)).tolist()
    return tuple(often) or (0,)
