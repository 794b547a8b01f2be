"""Walks in latent space: memory, conditioning and sampling, chunk by chunk, without a codec."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from loci.acceleration.calibration import ModelCalibration
from loci.acceleration.presets import UNCALIBRATED, Preset, as_preset
from loci.acceleration.stats import Stats
from loci.actions import to_ids
from loci.codecs.base import CodecState
from loci.errors import LociError, check_seed
from loci.memory.hierarchical import HierarchicalMemory, MemoryState
from loci.memory.hpmc import published_memory
from loci.memory.memory_tokens import MemoryTokens
from loci.memory.poses import dead_reckon
from loci.world.conditioning import Actions, ChunkContext, ChunkPoses, Prompt
from loci.world.config import WorldConfig
from loci.world.prompt_group import PromptGroup
from loci.world.sampling import chunk_noise, sample_walk_batch, sample_with_preset
from loci.world.transformer import WorldTransformer


@dataclass(frozen=True, eq=False)
class WalkState:
    """A walk between two chunks. It never changes: keep it, and the walk can be forked from here.

    Attributes:
        seed: seed of the noise.
        frame_count: frames so far, the start picture included.
        chunk_count: chunks so far.
        memory: the memory of the history.
        codec_state: the state of the codec's stream.
        newest_latent: the last latent of the history, the local frame of the next chunk.
        pose: dead-reckoned (heading, x, y).
        prompt: encoded, for models with text.
    """

    seed: int
    frame_count: int
    chunk_count: int
    memory: MemoryState
    codec_state: CodecState
    newest_latent: Float[Tensor, "b c 1 h w"]
    pose: Float[Tensor, "b 3"]
    prompt: Prompt | None = None


class LatentWorld:
    """Generates the latents of walks, one or a batch of them, chunk by chunk.

    Args:
        config: how the world is walked.
        transformer: the model.
        temporal_factor: frames per latent.
        calibration: the calibration of the model, for presets with a tolerance.

    Raises:
        LociError: when the configuration does not fit the model.
    """

    def __init__(
        self,
        config: WorldConfig,
        transformer: WorldTransformer,
        temporal_factor: int = 1,
        calibration: ModelCalibration | None = None,
    ) -> None:
        self.config, self.transformer = config, transformer
        self.temporal_factor = temporal_factor
        self.calibration = calibration or ModelCalibration()
        self.preset, self.stats, self.verify = as_preset(None), Stats(), False
        self.progress: Callable[[str, int, int], None] | None = None
        """Called with (stage, step, steps) before every step: "prompt" and "picture" of a start,
        "context", "sampling", "frames" and "history" of each chunk."""
        self.group: PromptGroup | None = None
        """Two processes that walk together: each evaluates one of the two prompts of guidance. None
        to evaluate both here."""
        _check_config(config, transformer, temporal_factor)
        encoder = transformer.memory_encoder
        windows = config.memory.published_windows
        encode_history = partial(published_memory, encoder) if windows else None
        self.memory = HierarchicalMemory(config.memory, encoder, encode_history)

    def at_speed(
        self, preset: str | Preset, stats: Stats | None = None, verify: bool = False
    ) -> Self:
        """The same world with another speed preset and statistics of its own; weights are shared.

        Walks of several threads each need a world from here, so that their statistics are apart.

        Args:
            preset: "exact", "fast", "faster", or one of your own (docs/acceleration.md).
            stats: where evaluations and seconds are counted; new ones by default.
            verify: sample every chunk once more, exactly, and record the error.

        Raises:
            LociError: when there is no preset of that name.
        """
        if not isinstance(preset, str | Preset):
            raise LociError(f"speed {preset!r}: expected exact, fast, faster or a Preset")
        other = copy.copy(self)
        other.verify = verify
        other.preset = as_preset(preset).calibrated(self.calibration)
        other.stats = stats if stats is not None else Stats()
        if "walk" in other.preset.uncalibrated:
            other.stats.note(UNCALIBRATED)
        return other

    @property
    def chunk_frames(self) -> int:
        """New frames per chunk at most."""
        return self.config.chunk

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.transformer.patch_embedding.weight.device

    def report(self, stage: str, step: int, steps: int) -> None:
        """Tells `progress`, if there is one, that a step of a stage begins."""
        if self.progress is not None:
            self.progress(stage, step, steps)

    @torch.no_grad()
    def start_from_latents(
        self,
        latents: Float[Tensor, "b c t h w"],
        poses: Float[Tensor, "b t 3"] | None = None,
        seed: int = 0,
        prompt: Prompt | None = None,
        codec_state: CodecState | None = None,
    ) -> WalkState:
        """The state of a walk with a known history.

        Args:
            latents: one or more; the last becomes the local frame of the next chunk.
            poses: dead-reckoned, of every latent, where the model uses them; by default the walk
                begins at (0, 0, 0), which needs a single latent.
            seed: seed of the noise, 0 to 2**63 - 1.
            prompt: encoded, for models with text.
            codec_state: the state of the codec after these latents.

        Raises:
            LociError: for a seed out of range.
        """
        batch, _, latent_count = latents.shape[:3]
        if poses is None:
            poses = torch.zeros(batch, latent_count, 3, dtype=torch.float64)
        remembered = latent_count - int(self.config.memory_excludes_local)
        memory = self.memory.empty()
        if remembered:
            memory_poses = None if self.config.action_scale is None else poses[:, :remembered]
            memory = self.memory.append(memory, latents[:, :, :remembered], memory_poses)
        return WalkState(
            check_seed(seed),
            frame_count=1 + (latent_count - 1) * self.temporal_factor,
            chunk_count=0,
            memory=memory,
            codec_state=codec_state or {},
            newest_latent=latents[:, :, -1:].clone(),
            pose=poses[:, -1].cpu().double(),
            prompt=prompt,
        )

    @torch.no_grad()
    def walk_latents(
        self,
        state: WalkState,
        actions: Int[Tensor, "b n 2"],
        poses: Float[Tensor, "b n 3"] | None = None,
    ) -> Iterator[tuple[Float[Tensor, "b c t h w"], WalkState]]:
        """New latents and the state after them, chunk by chunk. Needs no decoder.

        Args:
            state: the walks so far.
            actions: ids of every walk, in whole latents.
            poses: the poses after each action, where they are known better than by dead reckoning.
        """
        for at in range(0, actions.shape[1], self.chunk_frames):
            ids = actions[:, at : at + self.chunk_frames]
            next_action = actions[:, at + self.chunk_frames : at + self.chunk_frames + 1]
            given_poses = None if poses is None else poses[:, at : at + self.chunk_frames]
            latents, chunk_poses = self.sample_chunk(state, ids, next_action, given_poses)
            new = self.drop_overlap(latents, ids.shape[1])
            state = self.append(state, ids.shape[1], new, chunk_poses)
            yield new, state

    def sample_chunk(
        self,
        state: WalkState,
        ids: Int[Tensor, "b n 2"],
        next_action: Int[Tensor, "b m 2"],
        given_poses: Float[Tensor, "b n 3"] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The latents of the whole next chunk, and the poses of its frames.

        Arguments as for `chunk_context`.
        """
        still = ~ids.flatten(1).any(dim=1) & self.config.static
        repeated = state.newest_latent.expand(-1, -1, self.config.chunk, -1, -1)
        if still.all():  # the newest latent again, in place of a chunk without motion
            return repeated.clone(), state.pose[:, None].repeat(1, self.config.chunk, 1)
        self.report("context", 0, 1)
        with self.stats.timed("context"):
            context, poses = self.chunk_context(state, ids, next_action, given_poses)
        report_step = partial(self.report, "sampling")
        noise = self.noise(state)
        if len(noise) > 1:
            latents = sample_walk_batch(
                self.transformer, noise, context, self.config.sampling, report_step=report_step
            )
        else:
            latents = sample_with_preset(
                self.transformer,
                noise,
                context,
                self.config.sampling,
                self.preset,
                self.stats,
                verify=self.verify,
                report_step=report_step,
                group=self.group,
            )
        if still.any():
            stands = still.to(self.device)[:, None, None, None, None]
            latents = torch.where(stands, repeated, latents)
        return latents, poses

    def noise(self, state: WalkState) -> Float[Tensor, "b c t h w"]:
        """The initial noise of the next chunk."""
        latent_count = self.config.chunk // self.temporal_factor + int(self.config.overlap)
        shape = (*state.newest_latent.shape[:2], latent_count, *state.newest_latent.shape[3:])
        return chunk_noise(state.seed, state.chunk_count, shape, self.device)

    def chunk_context(
        self,
        state: WalkState,
        ids: Int[Tensor, "b n 2"],
        next_action: Int[Tensor, "b m 2"],
        given_poses: Float[Tensor, "b n 3"] | None = None,
    ) -> tuple[ChunkContext, Tensor | None]:
        """The conditioning of the next chunk, and the poses of its frames.

        Args:
            state: the walks so far.
            ids: the actions of every walk, at most `chunk_frames`.
            next_action: the one after these, for models whose chunks overlap; m is 1, or 0 where
                it is not known.
            given_poses: the poses after each action, in place of those by dead reckoning.
        """
        config = self.config
        # The rest of the chunk stands still.
        padded = torch.zeros(len(ids), config.chunk + int(config.overlap), 2, dtype=torch.long)
        padded[:, : ids.shape[1]] = ids
        if config.overlap and next_action.shape[1]:
            padded[:, ids.shape[1]] = next_action[:, 0]
        move, view = padded.unbind(-1)
        chunk_poses = poses = None
        if config.action_scale is not None:
            poses = dead_reckon(state.pose, move, view, config.action_scale)
            if given_poses is not None:
                poses[:, : given_poses.shape[1]] = given_poses.to(poses)
        memory = self.memory.tokens(state.memory, poses) if state.memory.length else None
        if poses is not None:
            chunk_poses = _chunk_poses(state, memory, poses)
        # A batch of walks, or of prompt and negative prompt of a single walk.
        batch = len(state.newest_latent) if state.prompt is None else state.prompt.states.shape[0]
        tokens = None if memory is None else memory.tokens.expand(batch, -1, -1, -1, -1)
        context = self.transformer.context(
            tokens,
            state.newest_latent.expand(batch, -1, -1, -1, -1),
            Actions(move.to(self.device), view.to(self.device)),
            state.prompt,
            chunk_poses,
        )
        return context, poses

    def drop_overlap(self, latents: Float[Tensor, "b c t h w"], frame_count: int) -> Tensor:
        """The latents of a chunk's first new frames."""
        first = int(self.config.overlap)
        return latents[:, :, first : first + frame_count // self.temporal_factor]

    def append(
        self,
        state: WalkState,
        frame_count: int,
        new: Float[Tensor, "b c t h w"],
        poses: Float[Tensor, "b n 3"] | None,
        codec_state: CodecState | None = None,
    ) -> WalkState:
        """The state after so many new frames.

        Args:
            state: the walks before them.
            frame_count: how many they are.
            new: their latents.
            poses: poses of the chunk they belong to, where the model uses poses.
            codec_state: the state of the codec after them; unchanged by default.
        """
        pose, remembered, remembered_poses = state.pose, new, None
        if poses is not None:
            remembered_poses, pose = poses[:, :frame_count], poses[:, frame_count - 1]
        if self.config.memory_excludes_local:
            remembered = torch.cat([state.newest_latent, new[:, :, :-1]], dim=2)
            if remembered_poses is not None:
                remembered_poses = torch.cat([state.pose[:, None], remembered_poses[:, :-1]], dim=1)
        return replace(
            state,
            frame_count=state.frame_count + frame_count,
            chunk_count=state.chunk_count + 1,
            memory=self.memory.append(state.memory, remembered, remembered_poses),
            codec_state=state.codec_state if codec_state is None else codec_state,
            newest_latent=new[:, :, -1:].clone(),
            pose=pose,
        )


def _chunk_poses(
    state: WalkState, memory: MemoryTokens | None, target: Float[Tensor, "b n 3"]
) -> ChunkPoses:
    if memory is None or memory.poses is None:
        return ChunkPoses(target[:, :0], target[:, :0, 0], state.pose, target)
    ends = torch.tensor([span.end for span in memory.spans], dtype=torch.float64)
    ages = (state.memory.length - ends).expand(len(target), -1)
    return ChunkPoses(memory.poses, ages, state.pose, target)


def next_action_ids(action: ArrayLike | None) -> Int[Tensor, "1 m 2"]:
    """The action after a chunk as ids; m is 0 for None."""
    ids = np.zeros((0, 2), np.int64) if action is None else to_ids(np.asarray([action]))
    return torch.from_numpy(ids)[None]


def _check_config(config: WorldConfig, transformer: WorldTransformer, factor: int) -> None:
    if (config.action_scale is None) != (transformer.config.pose_rotary is None):
        raise LociError("world: set both or neither of action_scale and pose_rotary")
    if config.action_scale is not None and (config.overlap or factor > 1):
        raise LociError("world: dead-reckoned poses need a latent for each new frame, no overlap")
    if config.static and config.action_scale is None:
        raise LociError("world: a static world needs an action_scale")
    if config.action_scale is None and config.memory.merging.posed:
        raise LociError(
            "world: a memory that merges by views or has keyframes needs poses: an action_scale"
        )
    if factor > 1 and (config.chunk % factor or not config.overlap):
        raise LociError(
            f"world: a codec of {factor} frames a latent needs chunks that overlap, of a "
            f"multiple of {factor} frames"
        )
