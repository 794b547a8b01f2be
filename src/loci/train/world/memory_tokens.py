"""Memory tokens of a batch's history, compressed as the hierarchical memory does in a walk.

Level-one tokens of whole walks can be cached: they are most of the work of a long history.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.data.latents import LatentWalks
from loci.memory.hpmc import COMPRESSION, HPMCEncoder
from loci.memory.poses import panorama_pose, view_pose
from loci.train.world.batches import WINDOW, WorldBatch
from loci.train.world.degrade import fade
from loci.world.conditioning import Actions, ChunkPoses

TOKENS = WINDOW // COMPRESSION
"""Level-one tokens of a window."""


@dataclass(frozen=True)
class WindowTokenCache:
    """Level-one tokens of every complete window of some walks: of the clean history, and of one
    with noise.

    They are valid as long as the weights that make level-one tokens do not change, so those are
    frozen meanwhile; the merges, which start from these tokens, go on learning. In half precision
    on the CPU.
    """

    tokens: Float[Tensor, "2 walks windows d k h w"]

    def look_up(
        self, noisy: Int[Tensor, "b"], walks: Int[Tensor, "b"], starts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n d k h w"]:
        """The tokens of windows that begin at the latents `starts`, noisy (1) or clean (0);
        float32."""
        index = starts // WINDOW
        row = walks[:, None].expand_as(index)
        return self.tokens[noisy[:, None].expand_as(index), row, index].float()


@torch.no_grad()
def window_tokens(
    encoder: HPMCEncoder,
    walks: LatentWalks,
    noise: float,
    seed: int,
    faded: float = 0.0,
    batch: int = 64,
) -> WindowTokenCache:
    """Encode all windows of some walks, clean and degraded: a share of the windows `faded`, all
    with noise of a deviation of up to `noise`."""
    device = encoder.conv_in.weight.device
    rng = torch.Generator().manual_seed(seed)
    count = walks.length // WINDOW
    rows: list[Tensor] = []
    for walk in range(walks.count):
        clean = walks.past[walk, : count * WINDOW].float().unflatten(0, (count, WINDOW))
        poses = walks.poses[walk, : count * WINDOW].unflatten(0, (count, WINDOW))
        deviation = noise * torch.rand(count, 1, 1, 1, 1, generator=rng)
        noisy = fade(clean[None], faded, rng)[0]
        noisy = noisy + deviation * torch.randn(clean.shape, generator=rng)
        for version in (clean, noisy):
            parts = zip(version.transpose(1, 2).split(batch), poses.split(batch), strict=True)
            encoded = [encoder.encode(part.to(device), where) for part, where in parts]
            rows.append(torch.cat([part.half().cpu() for part in encoded]))
    return WindowTokenCache(torch.stack([torch.stack(rows[0::2]), torch.stack(rows[1::2])]))


class BatchMemory(NamedTuple):
    """Memory tokens `[b, d, k, h, w]`, their poses `[b, k, 4]` and the ends of their spans
    `[b, k]`."""

    tokens: Tensor
    poses: Tensor
    ends: Tensor


def compress_history(
    encoder: HPMCEncoder,
    batch: WorldBatch,
    noise: Float[Tensor, "b"] | None = None,
    cache: WindowTokenCache | None = None,
    rng: torch.Generator | None = None,
    faded: float = 0.0,
) -> BatchMemory:
    """Compress a batch's spans as the hierarchical memory would: windows, then merges of four.

    Runs on the encoder's device; poses stay on the CPU. Gradients pass through all merges; the
    encoding of windows learns from level-one tokens only, since windows of merged spans are many.

    Args:
        encoder: of windows and merges.
        batch: spans of latents.
        noise: deviation of the noise augmentation of every example's history, so that a model
            learns to live with its own imperfect frames.
        cache: where level-one tokens are looked up, clean or noisy by chance, instead of encoded.
        rng: of the noise, on the CPU.
        faded: share of the examples whose history fades; cached tokens are as they were made.
    """
    device = encoder.conv_in.weight.device
    size = batch.local.shape[0]
    parts = []
    for level, (latents, span_poses) in enumerate(zip(batch.spans, batch.span_poses, strict=True)):
        count, length = latents.shape[1:3]
        if not count:
            continue
        window_poses = span_poses.reshape(-1, WINDOW, 3)
        if cache is not None:
            tokens = _cached(cache, batch, level, length, rng).to(device)
        else:
            if noise is not None:
                scale = noise.view(-1, 1, 1, 1, 1, 1)
                latents = fade(latents, faded, rng)
                latents = latents + scale * torch.randn(latents.shape, generator=rng)
            windows = latents.reshape(-1, WINDOW, *latents.shape[3:]).transpose(1, 2).to(device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and level == 0):
                tokens = encoder.encode(windows, window_poses)
        poses = view_pose(window_poses.unflatten(1, (-1, COMPRESSION)).flatten(0, 1))
        tokens, poses = _regroup(tokens, poses, length // COMPRESSION)
        for _ in range(level):
            tokens, poses = _merge(encoder, tokens, poses)
        ends = batch.ends[level][..., None].expand(-1, -1, tokens.shape[2])
        if level == 0:
            ends = ends - torch.arange(TOKENS - 1, -1, -1) * COMPRESSION
        tokens = tokens.unflatten(0, (size, count)).transpose(1, 2).flatten(2, 3)
        parts.append(BatchMemory(tokens, poses.reshape(size, -1, 4), ends.flatten(1)))
    if not parts:
        return _empty(batch, encoder.config.out_channels, device)
    tokens, poses, ends = zip(*parts, strict=True)
    return BatchMemory(torch.cat(tokens, dim=2), torch.cat(poses, dim=1), torch.cat(ends, dim=1))


def batch_poses(batch: WorldBatch, memory: BatchMemory) -> ChunkPoses:
    """Dead-reckoned poses of everything in the sequence."""
    ages = (batch.now[:, None] - memory.ends).double()
    return ChunkPoses(memory.poses, ages, batch.local_pose, batch.target_pose)


def batch_actions(batch: WorldBatch, device: torch.device) -> Actions | None:
    """The actions of a batch on a device, where it has any."""
    return None if batch.actions is None else Actions(*batch.actions.to(device).unbind(-1))


def _cached(
    cache: WindowTokenCache,
    batch: WorldBatch,
    level: int,
    length: int,
    rng: torch.Generator | None,
) -> Tensor:
    starts = batch.ends[level][..., None] - length + torch.arange(0, length, WINDOW)
    noisy = torch.randint(2, batch.walks.shape, generator=rng)
    return cache.look_up(noisy, batch.walks, starts.flatten(1)).flatten(0, 1)


def _regroup(tokens: Tensor, poses: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Windows in a row back to spans of `length` tokens."""
    spans = tokens.unflatten(0, (-1, length // tokens.shape[2]))
    return spans.transpose(1, 2).flatten(2, 3), poses.reshape(-1, length, 4)


def _merge(encoder: HPMCEncoder, tokens: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Every four tokens to one of the next level."""
    length = tokens.shape[2] // COMPRESSION
    groups = tokens.unflatten(2, (length, COMPRESSION)).transpose(1, 2).flatten(0, 1)
    parts = poses.reshape(-1, COMPRESSION, 4)
    return _regroup(encoder.merge(groups, parts), panorama_pose(parts), length)


def _empty(batch: WorldBatch, width: int, device: torch.device) -> BatchMemory:
    size, (height, columns) = batch.local.shape[0], batch.local.shape[-2:]
    tokens = torch.zeros(size, width, 0, height // 2, columns // 2, device=device)
    poses = batch.local_pose.new_zeros(size, 0, 4)
    return BatchMemory(tokens, poses, batch.now.new_zeros(size, 0))
