"""The same world with other memories, and the reasons why some cannot be had."""

import copy
from dataclasses import replace

from loci.memory.baselines import Memory, NoMemory, RawMemory, SampledMemory, WrongMemory
from loci.memory.hierarchical import HierarchicalMemory
from loci.memory.token_cache import MemoryTokens
from loci.world.world import World

TIME = "time"
RAW_REASON = (
    "this transformer reads codes of its own width on the patch grid; raw latents do not fit it"
)
KEEPSAKES_REASON = "the memory measured as hpmc has keepsakes itself, no poses, or other windows"
COVER = 8
"""Codes of the cover beside keepsakes."""
AGE_REASON = "the memory measured as hpmc is merged by age"
TIME_REASON = "needs a second model, addressed by time: --time-model PATH"


def with_memory(world: World, memory: Memory) -> World:
    """The same codec and weights with another memory."""
    other = copy.copy(world)
    other.memory = memory  # pyright: ignore[reportAttributeAccessIssue]
    return other


def takes_raw_latents(world: World) -> bool:
    """Whether the transformer reads latents and codes alike, as published."""
    config = world.transformer.config
    return config.reckoned is None and config.memory.out_channels == config.latent_channels


def may_keep(world: World) -> bool:
    """Whether the same memory can be had with keepsakes, to compare."""
    horizon = world.config.horizon
    hierarchy = horizon.hierarchy
    posed = world.config.stride is not None and horizon.exact is None
    return posed and hierarchy.keepsakes == 0 and hierarchy.window == 8 and hierarchy.budget > COVER


def variants(world: World, wrong: MemoryTokens | None = None) -> dict[str, World]:
    """The memories to compare, by name; `wrong` are another scene's codes, if there is one.

    `window` and `stride` have the budget of the shipped memory, in codes of level one; `age`
    is the same memory merged by age alone, where it follows views; `keepsakes` has so many of its
    codes as keepsakes as leave the coarsest cover but one, where the shipped one has none.
    """
    compressor, hierarchy = world.transformer.latent_encoder, world.config.horizon.hierarchy
    memories: dict[str, Memory] = {
        "hpmc": world.memory,
        "none": NoMemory(compressor=compressor),
        "window": SampledMemory(compressor=compressor, config=hierarchy),
        "stride": SampledMemory(compressor=compressor, config=hierarchy, strided=True),
    }
    if hierarchy.follow == "views":
        by_age = replace(world.config.horizon, hierarchy=replace(hierarchy, follow="age"))
        memories["age"] = HierarchicalMemory(by_age, compressor)
    if may_keep(world):
        some = replace(hierarchy, keepsakes=hierarchy.budget - COVER)
        memories["keepsakes"] = HierarchicalMemory(
            replace(world.config.horizon, hierarchy=some), compressor
        )
    if wrong is not None:
        memories["wrong"] = WrongMemory(world.memory, wrong)
    if takes_raw_latents(world):
        memories["raw"] = RawMemory()
    return {name: with_memory(world, memory) for name, memory in memories.items()}
