"""Codes of level one of whole walks, made once: windows are most of the work of a long history."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.data.recordings import LatentWalks
from loci.memory.hpmc import RATE, HPMCEncoder
from loci.memory.poses import panorama_pose, view_pose
from loci.train.world.batches import WINDOW, Batch
from loci.world.conditioning import ChunkPoses


@dataclass(frozen=True)
class WindowTokenCache:
    """The codes of every complete window: clean ones, and ones of a disturbed past.

    They hold as long as the encoder's windows do not change, so those are frozen meanwhile; the
    merges, which start from these codes, go on learning. Kept in half precision on the CPU.
    """

    codes: Float[Tensor, "2 walks windows d k h w"]

    def look_up(
        self, disturbed: Int[Tensor, "b"], walks: Int[Tensor, "b"], starts: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n d k h w"]:
        """The codes of windows that begin at the latents `starts`; float32."""
        index = starts // WINDOW
        row = walks[:, None].expand_as(index)
        return self.codes[disturbed[:, None].expand_as(index), row, index].float()


@torch.no_grad()
def window_tokens(
    encoder: HPMCEncoder, walks: LatentWalks, noise: float, seed: int, batch: int = 64
) -> WindowTokenCache:
    """Encode all windows of some walks, clean and with noise of up to `noise` on the past."""
    device = encoder.conv_in.weight.device
    generator = torch.Generator().manual_seed(seed)
    count = walks.length // WINDOW
    rows = []
    for walk in range(walks.count):
        past = walks.past[walk, : count * WINDOW].float().unflatten(0, (count, WINDOW))
        poses = walks.reckoned[walk, : count * WINDOW].unflatten(0, (count, WINDOW))
        deviation = noise * torch.rand(count, 1, 1, 1, 1, generator=generator)
        disturbed = past + deviation * torch.randn(past.shape, generator=generator)
        for version in (past, disturbed):
            parts = zip(version.transpose(1, 2).split(batch), poses.split(batch), strict=True)
            made = [encoder.encode(part.to(device), where).half().cpu() for part, where in parts]
            rows.append(torch.cat(made))
    return WindowTokenCache(torch.stack([torch.stack(rows[0::2]), torch.stack(rows[1::2])]))


CODES = WINDOW // RATE


class BatchMemory(NamedTuple):
    """Codes `[b, d, k, h, w]`, their poses `[b, k, 4]` and the ends of their spans `[b, k]`."""

    codes: Tensor
    poses: Tensor
    ends: Tensor


def compress_history(
    encoder: HPMCEncoder,
    batch: Batch,
    noise: Tensor | None = None,
    kept: WindowTokenCache | None = None,
) -> BatchMemory:
    """Compress a batch's spans as the hierarchy would: windows, then merges of four codes.

    `noise` holds one deviation per example, `[b]`: history is disturbed so that a model learns to
    live with its own imperfect frames. Codes of windows that were `kept` are looked up, clean or
    disturbed by chance, instead. Runs on the encoder's device; poses stay where they are.
    Gradients pass through all merges; windows learn from the codes of level one only, since those
    of merged spans are many.
    """
    device = encoder.conv_in.weight.device
    size = batch.local.shape[0]
    parts = []
    for level, (latents, poses) in enumerate(zip(batch.spans, batch.span_poses, strict=True)):
        count, length = latents.shape[1:3]
        if not count:
            continue
        window_poses = poses.reshape(-1, WINDOW, 3)
        if kept is not None:
            codes = _kept(kept, batch, level, length).to(device)
        else:
            if noise is not None:
                scale = noise.view(-1, 1, 1, 1, 1, 1)
                latents = latents + scale * torch.randn_like(latents)
            windows = latents.reshape(-1, WINDOW, *latents.shape[3:]).transpose(1, 2).to(device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and level == 0):
                codes = encoder.encode(windows, window_poses)
        code_poses = view_pose(window_poses.unflatten(1, (-1, RATE)).flatten(0, 1))
        codes, code_poses = _regroup(codes, code_poses, length // RATE)
        for _ in range(level):
            codes, code_poses = _merge(encoder, codes, code_poses)
        ends = batch.ends[level][..., None].expand(-1, -1, codes.shape[2])
        if level == 0:
            ends = ends - torch.arange(CODES - 1, -1, -1) * RATE
        codes = codes.unflatten(0, (size, count)).transpose(1, 2).flatten(2, 3)
        parts.append(BatchMemory(codes, code_poses.reshape(size, -1, 4), ends.flatten(1)))
    if not parts:
        return _nothing(batch, encoder.config.out_channels, device)
    codes, poses, ends = zip(*parts, strict=True)
    return BatchMemory(torch.cat(codes, dim=2), torch.cat(poses, dim=1), torch.cat(ends, dim=1))


def chunk_poses(batch: Batch, remembered: BatchMemory) -> ChunkPoses:
    """Where everything in the sequence looks, by reckoning."""
    ages = (batch.now[:, None] - remembered.ends).double()
    return ChunkPoses(remembered.poses, ages, batch.local_pose, batch.target_pose)


def _kept(kept: WindowTokenCache, batch: Batch, level: int, length: int) -> Tensor:
    starts = batch.ends[level][..., None] - length + torch.arange(0, length, WINDOW)
    disturbed = torch.randint(2, batch.walks.shape)
    return kept.look_up(disturbed, batch.walks, starts.flatten(1)).flatten(0, 1)


def _regroup(codes: Tensor, poses: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Windows in a row back to spans of `length` codes."""
    spans = codes.unflatten(0, (-1, length // codes.shape[2]))
    return spans.transpose(1, 2).flatten(2, 3), poses.reshape(-1, length, 4)


def _merge(encoder: HPMCEncoder, codes: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Every four codes to one of the next level."""
    length = codes.shape[2] // RATE
    groups = codes.unflatten(2, (length, RATE)).transpose(1, 2).flatten(0, 1)
    parts = poses.reshape(-1, RATE, 4)
    return _regroup(encoder.merge(groups, parts), panorama_pose(parts), length)


def _nothing(batch: Batch, width: int, device: torch.device) -> BatchMemory:
    size, (height, columns) = batch.local.shape[0], batch.local.shape[-2:]
    codes = torch.zeros(size, width, 0, height // 2, columns // 2, device=device)
    poses = batch.local_pose.new_zeros(size, 0, 4)
    return BatchMemory(codes, poses, batch.now.new_zeros(size, 0))
