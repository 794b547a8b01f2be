"""A chunk the way the published loop makes it: nothing is kept from one evaluation to the next.

All frames are encoded again before the chunk; the memory is compressed again, and the memory
stream computed again, in every evaluation of the model and for every row of the prompt
(Infinite-World, 3.5 and 8).
"""

import time
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from loci.flow import State, batched_guidance, euler_timesteps, sample
from loci.io.frames import frames_to_tensor, tensor_to_frames
from loci.memory.hpmc import RATE, WindowPlan
from loci.memory.poses import dead_reckon
from loci.memory.token_cache import MemoryTokens
from loci.world.conditioning import Actions, ChunkContext, ChunkPoses
from loci.world.rollout import chunk_noise
from loci.world.world import WalkState, World

_PLAN = WindowPlan()
# What the published windows and second pass read, however long the history: so much is compressed
# at each evaluation, and no more, where a world has a memory of its own instead.
MOST_COMPRESSED = _PLAN.windows * _PLAN.window + _PLAN.windows * _PLAN.window // RATE


class History(NamedTuple):
    """All that a walk has made so far, the picture and the local frame included."""

    frames: UInt8[np.ndarray, "n h w 3"]
    latents: Float[Tensor, "1 c t h w"]
    poses: Float[Tensor, "1 t 3"] | None


class PublishedChunk(NamedTuple):
    """New latents and frames, and the seconds it took: to encode, and in all."""

    latents: Float[Tensor, "1 c t h w"]
    frames: UInt8[np.ndarray, "n h w 3"]
    encoding: float
    seconds: float


@torch.no_grad()
def published_chunk(
    world: World, state: WalkState, history: History, actions: Int[np.ndarray, "n 2"]
) -> PublishedChunk:
    """The chunk that `world.step(state, actions)` makes, for a full chunk of actions.

    Where the world's history holds sampled latents, those are used, so that the numbers can be
    compared; the frames are encoded all the same.
    """
    config, began = world.config, time.perf_counter()
    encoded = world.codec.encode(frames_to_tensor(history.frames).to(state.local.device))
    encoding = time.perf_counter() - began
    latents = encoded if config.reencode else history.latents
    known = latents.shape[2] - int(config.lag)
    poses = None if history.poses is None else history.poses[:, :known]
    pressed = np.zeros((1, config.chunk + int(config.overlap), 2), np.int64)
    pressed[0, : len(actions)] = actions
    move, view = torch.from_numpy(pressed).unbind(-1)
    move, view = move.to(state.local.device), view.to(state.local.device)

    def velocity(now: State, timestep: Tensor) -> State:
        codes = _compress(world, latents[:, :, :known], poses, now["video"].shape[0])
        context = _context(world, state, codes, Actions(move, view))
        return {"video": world.transformer.velocity(now["video"], timestep, context)}

    step = (
        velocity if state.prompt is None else batched_guidance(velocity, config.sampling.guidance)
    )
    grid = euler_timesteps(config.sampling.steps, config.sampling.shift, config.sampling.even)
    made = sample(step, {"video": _noise(world, state)}, grid)["video"]
    again = int(config.overlap)  # the frame that is already there
    frames = tensor_to_frames(world.codec.decode(made)[:, :, again:])
    return PublishedChunk(made[:, :, again:], frames, encoding, time.perf_counter() - began)


def _compress(
    world: World, latents: Tensor, poses: Tensor | None, rows: int
) -> MemoryTokens | None:
    if not latents.shape[2]:
        return None
    latents = latents.expand(rows, -1, -1, -1, -1)
    memory = world.memory
    if memory.published is not None:
        return MemoryTokens(memory.published(latents), None, ())
    latents = latents[:, :, -MOST_COMPRESSED:]
    if poses is not None:
        poses = poses[:, -MOST_COMPRESSED:].expand(rows, -1, -1)
    return memory.codes(memory.append(memory.empty(), latents, poses))


def _context(
    world: World, state: WalkState, codes: MemoryTokens | None, actions: Actions
) -> ChunkContext:
    address = None
    if world.config.stride is not None:
        target = dead_reckon(state.pose, actions.move, actions.view, world.config.stride)
        if codes is None or codes.poses is None:
            address = ChunkPoses(target[:, :0], target[:, :0, 0], state.pose, target)
        else:
            ends = torch.tensor([span.end for span in codes.spans], dtype=torch.float64)
            address = ChunkPoses(codes.poses, (ends.max() - ends)[None], state.pose, target)
    tokens = None if codes is None else codes.tokens
    rows = 1 if state.prompt is None else state.prompt.states.shape[0]
    local = state.local.expand(rows, -1, -1, -1, -1)
    return world.transformer.context(tokens, local, actions, state.prompt, address)


def _noise(world: World, state: WalkState) -> Tensor:
    config = world.config
    shape = list(state.local.shape)
    shape[2] = config.chunk // world.codec.temporal_factor + int(config.overlap)
    return chunk_noise(state.seed, state.chunks, tuple(shape), state.local.device)
