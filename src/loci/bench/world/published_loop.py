"""A chunk as the published loop makes it, with nothing cached between evaluations.

The published Infinite-World encodes all frames again before each chunk, and compresses the memory
again in every evaluation of the transformer, for both branches of the guidance.
"""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from loci.bench.world.variants import with_memory
from loci.flow import State, batched_guidance, euler_timesteps, sample
from loci.io.frames import frames_to_tensor, tensor_to_frames
from loci.memory.base import Memory
from loci.memory.hpmc import COMPRESSION, WindowPlan
from loci.memory.memory_tokens import MemoryTokens
from loci.memory.poses import dead_reckon
from loci.world.conditioning import Actions, ChunkContext, ChunkPoses
from loci.world.latent_world import WalkState
from loci.world.sampling import chunk_noise
from loci.world.world import World

_PLAN = WindowPlan()
MAX_COMPRESSED = _PLAN.windows * _PLAN.window + _PLAN.windows * _PLAN.window // COMPRESSION
"""The latents that the published windows and their second pass read, however long the history. A
world with a memory of its own compresses as many in every evaluation here."""


class WalkHistory(NamedTuple):
    """Everything a walk has made so far, with the start picture and its latent."""

    frames: UInt8[np.ndarray, "n h w 3"]
    latents: Float[Tensor, "1 c t h w"]
    poses: Float[Tensor, "1 t 3"] | None


class WalkRecorder:
    """A walk that keeps all its frames, latents and poses, which a world itself does not."""

    def __init__(self, world: World, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        self._recorder = _Recorder(world.memory)
        self._world = with_memory(world, self._recorder)
        self.state = self._world.start(picture)
        self._frames, self._latents = [picture[None]], [self.state.newest_latent]
        self._poses = [self.state.pose[:, None]]

    def step(self, actions: Int[np.ndarray, "n 2"]) -> None:
        frames, self.state = self._world.step(self.state, actions)
        latents, poses = self._recorder.last
        if self._world.config.memory_excludes_local:
            # The memory was given the previous frame and all but the newest.
            latents = torch.cat([latents[:, :, 1:], self.state.newest_latent], dim=2)
            if poses is not None:
                poses = torch.cat([poses[:, 1:], self.state.pose[:, None]], dim=1)
        self._frames.append(frames)
        self._latents.append(latents)
        if poses is not None:
            self._poses.append(poses)

    def history(self, chunks: int) -> WalkHistory:
        """The history after so many chunks."""
        frames, latents = self._frames[: chunks + 1], self._latents[: chunks + 1]
        posed = self._world.config.action_scale is not None
        poses = torch.cat(self._poses[: chunks + 1], dim=1) if posed else None
        return WalkHistory(np.concatenate(frames), torch.cat(latents, dim=2), poses)


class _Recorder:
    """A memory that keeps what it was last given."""

    def __init__(self, inner: Memory) -> None:
        self.inner, self.empty, self.tokens = inner, inner.empty, inner.tokens
        self.last: tuple[Tensor, Tensor | None]

    def append(self, state: Any, latents: Tensor, poses: Tensor | None = None) -> Any:
        self.last = latents, poses
        return self.inner.append(state, latents, poses)


class PublishedChunk(NamedTuple):
    """New latents and frames, and the seconds for encoding and in all."""

    latents: Float[Tensor, "1 c t h w"]
    frames: UInt8[np.ndarray, "n h w 3"]
    encoding: float
    seconds: float


@torch.no_grad()
def published_chunk(
    world: World, state: WalkState, history: WalkHistory, actions: Int[np.ndarray, "n 2"]
) -> PublishedChunk:
    """The chunk that `world.step(state, actions)` makes, for a full chunk of actions.

    The frames are always encoded. Where the world keeps sampled latents as its history, those are
    used afterwards, so that the results can be compared.
    """
    config, began = world.config, time.perf_counter()
    encoded = world.codec.encode(frames_to_tensor(history.frames).to(world.device))
    encoding = time.perf_counter() - began
    latents = encoded if config.reencode else history.latents
    remembered = latents.shape[2] - int(config.memory_excludes_local)
    poses = None if history.poses is None else history.poses[:, :remembered]
    padded = np.zeros((1, config.chunk + int(config.overlap), 2), np.int64)
    padded[0, : len(actions)] = actions
    move, view = torch.from_numpy(padded).to(world.device).unbind(-1)
    scale = config.action_scale
    target = None if scale is None else dead_reckon(state.pose, move, view, scale)

    def velocity(now: State, timestep: Tensor) -> State:
        batch = now["latents"].shape[0]
        memory = _compress(world, latents[:, :, :remembered], poses, batch, target)
        context = _context(world, state, memory, Actions(move, view), target)
        return {"latents": world.transformer.velocity(now["latents"], timestep, context)}

    step = (
        velocity
        if state.prompt is None
        else batched_guidance(velocity, config.sampling.guidance_scale)
    )
    grid = euler_timesteps(config.sampling.steps, config.sampling.shift, config.sampling.uniform)
    noise = {"latents": _noise(world, state)}
    sampled = sample(step, noise, grid, order=config.sampling.order)["latents"]
    first = int(config.overlap)  # the frame that is already there
    frames = tensor_to_frames(world.codec.decode(sampled)[:, :, first:])
    return PublishedChunk(sampled[:, :, first:], frames, encoding, time.perf_counter() - began)


def _compress(
    world: World, latents: Tensor, poses: Tensor | None, batch: int, target: Tensor | None
) -> MemoryTokens | None:
    if not latents.shape[2]:
        return None
    latents = latents.expand(batch, -1, -1, -1, -1)
    memory = world.memory
    if memory.encode_history is not None:
        return MemoryTokens(memory.encode_history(latents), None, ())
    latents = latents[:, :, -MAX_COMPRESSED:]
    if poses is not None:
        poses = poses[:, -MAX_COMPRESSED:].expand(batch, -1, -1)
    return memory.tokens(memory.append(memory.empty(), latents, poses), target)


def _context(
    world: World,
    state: WalkState,
    memory: MemoryTokens | None,
    actions: Actions,
    target: Tensor | None,
) -> ChunkContext:
    poses = None
    if target is not None:
        if memory is None or memory.poses is None:
            poses = ChunkPoses(target[:, :0], target[:, :0, 0], state.pose, target)
        else:
            ends = torch.tensor([span.end for span in memory.spans], dtype=torch.float64)
            poses = ChunkPoses(memory.poses, (ends.max() - ends)[None], state.pose, target)
    tokens = None if memory is None else memory.tokens
    batch = 1 if state.prompt is None else state.prompt.states.shape[0]
    local = state.newest_latent.expand(batch, -1, -1, -1, -1)
    return world.transformer.context(tokens, local, actions, state.prompt, poses)


def _noise(world: World, state: WalkState) -> Tensor:
    config = world.config
    shape = list(state.newest_latent.shape)
    shape[2] = config.chunk // world.temporal_factor + int(config.overlap)
    return chunk_noise(state.seed, state.chunk_count, tuple(shape), world.device)
