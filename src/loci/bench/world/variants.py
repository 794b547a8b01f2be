"""The same world with other memories or other presets, for comparison."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

from loci.acceleration.presets import Preset, exact, fast, faster
from loci.acceleration.step_cache import StepCacheConfig
from loci.acceleration.token_cache import TokenCacheConfig
from loci.memory.base import Memory
from loci.memory.baselines import NoMemory, RawMemory, SampledMemory, WrongMemory
from loci.memory.hierarchical import HierarchicalMemory, MemoryConfig
from loci.memory.memory_tokens import MemoryTokens
from loci.world.world import World

TIME = "time"
RAW_REASON = "this transformer reads memory tokens of its own width, so raw latents do not fit it"
AGE_REASON = "the measured memory is itself merged by age"
KEYFRAMES_REASON = (
    "the measured memory attends to all its keyframes, has no poses, or other windows"
)
MERGED_REASON = "the measured memory has no keyframes itself"
TIME_REASON = "needs a second model, addressed by time: --time-model PATH"
MERGED = 8
"""Memory tokens that are left for the merged history when the others are keyframes."""


def with_memory(world: World, memory: Memory) -> World:
    """The same codec and weights with another memory."""
    other = copy.copy(world)
    other.memory = memory  # pyright: ignore[reportAttributeAccessIssue]
    return other


def takes_raw_latents(world: World) -> bool:
    """Whether the transformer reads latents and memory tokens alike, as the published one does."""
    config = world.transformer.config
    return (
        config.pose_rotary is None and config.memory_encoder.out_channels == config.latent_channels
    )


def fewer_keyframes(config: MemoryConfig) -> MemoryConfig | None:
    """A memory of as many tokens as `config` attends to, with all but 8 of them keyframes and all
    attended to; None where `config` is that itself, or cannot have any."""
    budget, merging = config.attended, config.merging
    fits = merging.window == 8 and budget > MERGED and config.published_windows is None
    sharp = replace(merging, budget=budget, keyframes=budget - MERGED)
    if not fits or sharp == merging:
        return None
    return replace(config, merging=sharp, attended_keyframes=0)


def memory_variants(world: World, wrong: MemoryTokens | None = None) -> dict[str, World]:
    """The world with every memory that it can have, by name.

    `hpmc` is its own. All others give a chunk as many tokens: `window` and `stride` unmerged ones,
    `age` merges by age alone, `keyframes` has keyframes for all but 8 and keeps no more of them,
    `merged` has none, `raw` keeps all latents. `wrong` always holds the tokens of another scene;
    left out if none are given.
    """
    compressor, config = world.transformer.memory_encoder, world.config.memory
    merging = replace(config.merging, budget=config.attended, keyframes=0)
    merged = replace(config, merging=merging, attended_keyframes=0)
    memories: dict[str, Memory] = {
        "hpmc": world.memory,
        "none": NoMemory(compressor=compressor),
        "window": SampledMemory(compressor=compressor, config=merging),
        "stride": SampledMemory(compressor=compressor, config=merging, strided=True),
    }
    if merging.merge_by == "views":
        by_age = replace(merged, merging=replace(merging, merge_by="age"))
        memories["age"] = HierarchicalMemory(by_age, compressor)
    if config.merging.keyframes:
        memories["merged"] = HierarchicalMemory(merged, compressor)
    sharp = fewer_keyframes(config) if world.config.action_scale is not None else None
    if sharp is not None:
        memories["keyframes"] = HierarchicalMemory(sharp, compressor)
    if wrong is not None:
        memories["wrong"] = WrongMemory(world.memory, wrong)
    if takes_raw_latents(world):
        memories["raw"] = RawMemory()
    return {name: with_memory(world, memory) for name, memory in memories.items()}


EXACT = "exact"
STEPS = (6, 4, 3, 1)
"""Numbers of steps, without caching."""
CACHED = (0.05, 0.1, 0.4)
"""Tolerances of step caching."""
CARVED = (0.05, 0.1, 0.4)
"""Tolerances of token carving."""


class WalkMethod(NamedTuple):
    """One row of `loci bench walk-speed`.

    Attributes:
        name: of the row.
        group: the kind of approximation.
        preset: to walk with.
        steps: sampling steps per chunk; as many as the world takes if None.
    """

    name: str
    group: str
    preset: Preset
    steps: int | None = None

    def apply(self, world: World) -> World:
        """The world with this method and statistics of its own."""
        other = world.at_speed(self.preset)
        if self.steps is not None:
            sampling = replace(world.config.sampling, steps=self.steps)
            other.config = replace(world.config, sampling=sampling)
        return other


def walk_methods(steps: int) -> list[WalkMethod]:
    """All rows, exact first; names are distinct.

    Args:
        steps: sampling steps that the world takes; only fewer are tried.
    """
    cached = [
        *((f"cache {t:g}", "step caching", StepCacheConfig(tolerance=t)) for t in CACHED),
        *((f"carve {t:g}", "token carving", TokenCacheConfig(tolerance=t)) for t in CARVED),
    ]
    return [
        WalkMethod(EXACT, EXACT, exact()),
        *(WalkMethod(f"{n} steps", "fewer steps", exact(), n) for n in STEPS if n < steps),
        WalkMethod("fast", "step caching", fast()),
        WalkMethod("faster", "step caching", faster()),
        *(WalkMethod(name, group, Preset(name, walk=config)) for name, group, config in cached),
    ]
