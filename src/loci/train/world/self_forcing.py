"""Self-forcing: training on the model's own rollouts, so that it corrects its own errors."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loci.data.latents import LatentWalks
from loci.memory.hpmc import HPMCEncoder
from loci.train.world.batches import HistorySpec, local_frames
from loci.train.world.memory_tokens import WindowTokenCache, window_tokens
from loci.world.config import SamplingConfig, WorldConfig
from loci.world.latent_world import LatentWorld
from loci.world.transformer import WorldTransformer

STEPS = 4
"""Sampling steps of a rollout: fewer than in a walk, since there are many."""
WALKS, CHUNKS = 12, 24
"""Walks in a rollout, and chunks of each: long enough to merge what was generated."""


@dataclass(frozen=True)
class SelfForcedWalks:
    """Walks whose latents from `start + 1` to `stop` were generated; targets are the true ones."""

    walks: LatentWalks
    start: int
    stop: int

    @property
    def generated(self) -> range:
        """Local frames that the model generated."""
        return range(self.start + 1, self.stop)

    def fits(self, spec: HistorySpec) -> bool:
        """Whether some of these frames have enough history behind them, and targets before."""
        return bool(local_frames(self.walks.length, spec, self.generated))


def shortest_walk(world: WorldConfig, chunks: int = CHUNKS) -> int:
    """The least latents of a walk that a rollout can continue."""
    return world.chunk * (chunks + 3)


class Rollout(NamedTuple):
    """Which walks were continued, from which local frame, and the latents `[b, n, c, h, w]` that
    followed."""

    rows: Int[Tensor, "b"]
    start: int
    generated: Float[Tensor, "b n c h w"]


def random_rollout(
    model: WorldTransformer,
    walks: LatentWalks,
    world: WorldConfig,
    rng: np.random.Generator,
    count: int = WALKS,
    chunks: int = CHUNKS,
) -> Rollout:
    """Random walks, all continued from the same random frame on."""
    rows = torch.from_numpy(rng.choice(walks.count, size=min(count, walks.count), replace=False))
    latest = walks.length - world.chunk * (chunks + 1)
    start = world.chunk * int(rng.integers(1, latest // world.chunk))
    seed = int(rng.integers(2**62))
    generated = self_forcing_rollout(model, walks, world, rows, start, chunks, seed)
    return Rollout(rows, start, generated)


def self_forced_walks(walks: LatentWalks, rollout: Rollout) -> SelfForcedWalks:
    """The continued walks, with what was generated as their history."""
    rows, start, generated = rollout
    stop = start + 1 + generated.shape[1]
    history = walks.latents[rows].clone()
    history[:, start + 1 : stop] = generated.to(history)
    chosen = replace(
        walks,
        latents=walks.latents[rows],
        actions=walks.actions[rows],
        poses=walks.poses[rows],
        true_poses=walks.true_poses[rows],
        history=history,
    )
    return SelfForcedWalks(chosen, start, stop)


@torch.no_grad()
def self_forcing_rollout(
    model: WorldTransformer,
    walks: LatentWalks,
    world: WorldConfig,
    rows: Int[Tensor, "b"],
    start: int,
    chunks: int,
    seed: int,
    sampling: SamplingConfig | None = None,
) -> Float[Tensor, "b n c h w"]:
    """Generated latents `start + 1 ...` of some walks, from their true history and actions.

    Args:
        model: runs on its device; the result is on the CPU.
        walks: to continue.
        world: how the model is walked.
        rows: which walks.
        start: the local frame to go on from.
        chunks: to generate.
        seed: seed of the noise.
        sampling: of each chunk; by default with few steps.
    """
    sampling = sampling or SamplingConfig(STEPS, shift=2.0, uniform=True, guidance_scale=1.0)
    latent_world = LatentWorld(replace(world, sampling=sampling), model)
    history = walks.latents[rows, : start + 1].float().transpose(1, 2).to(latent_world.device)
    state = latent_world.start_from_latents(history, walks.poses[rows, : start + 1], seed)
    stop = start + world.chunk * chunks
    actions, poses = walks.actions[rows, start:stop], walks.poses[rows, start + 1 : stop + 1]
    if not latent_world.transformer.config.pose_rotary:
        poses = None
    generated = [latents for latents, _ in latent_world.walk_latents(state, actions, poses)]
    return torch.cat(generated, dim=2).transpose(1, 2).cpu()


@dataclass(frozen=True)
class WalkSource:
    """Walks to draw from, where local frames may be, and cached level-one tokens, if any."""

    walks: LatentWalks
    within: range | None = None
    tokens: WindowTokenCache | None = None


class BatchSource:
    """The recorded walks, their token cache, and the walks that the model continued last.

    The last are part of a checkpoint; the cache can be made again.
    """

    def __init__(
        self, walks: LatentWalks, world: WorldConfig, seed: int, faded: float = 0.0
    ) -> None:
        self.walks, self.world, self.seed, self.faded = walks, world, seed, faded
        self.tokens: WindowTokenCache | None = None
        self.rollout: Rollout | None = None
        self.self_forced: SelfForcedWalks | None = None
        self.self_forced_tokens: WindowTokenCache | None = None

    def cache_tokens(self, encoder: HPMCEncoder, noise: float) -> None:
        """Encode all windows: from now on the encoder must make the same level-one tokens."""
        self.tokens = window_tokens(encoder, self.walks, noise, self.seed, self.faded)
        self._cache_self_forced(encoder, noise)

    def roll_out(self, model: WorldTransformer, noise: float, rng: np.random.Generator) -> None:
        """Let the model continue some walks, in place of those it continued before."""
        self.rollout = random_rollout(model, self.walks, self.world, rng)
        self.self_forced = self_forced_walks(self.walks, self.rollout)
        self._cache_self_forced(model.memory_encoder, noise)

    def choose(self, spec: HistorySpec, share: float, rng: np.random.Generator) -> WalkSource:
        """With probability `share` the walks that the model continued, where the spec fits them."""
        forced = self.self_forced
        if forced is not None and rng.random() < share and forced.fits(spec):
            return WalkSource(forced.walks, forced.generated, self.self_forced_tokens)
        return WalkSource(self.walks, tokens=self.tokens)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.rollout is None else self.rollout._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.rollout = Rollout(**state)
            self.self_forced = self_forced_walks(self.walks, self.rollout)

    def _cache_self_forced(self, encoder: HPMCEncoder, noise: float) -> None:
        if self.tokens is not None and self.self_forced is not None:
            walks = self.self_forced.walks
            self.self_forced_tokens = window_tokens(encoder, walks, noise, self.seed)
