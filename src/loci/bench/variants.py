"""The same world with other memories, and the reasons why some cannot be had."""

import copy
from dataclasses import replace

from loci.memory.baselines import Memory, NoMemory, RawMemory, SampledMemory, WrongMemory
from loci.memory.codes import Codes
from loci.memory.horizon import HorizonMemory
from loci.world.world import World

TIME = "time"
RAW_REASON = (
    "this transformer reads codes of its own width on the patch grid; raw latents do not fit it"
)
COVER_REASON = "the memory measured as hpmc has no keepsakes"
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


def variants(world: World, wrong: Codes | None = None) -> dict[str, World]:
    """The memories to compare, by name; `wrong` are another scene's codes, if there is one.

    `window` and `stride` have the budget of the shipped memory, in codes of level one; `age`
    is the same memory merged by age alone, where it follows views; `cover` spends all of its budget
    on the cover, where the shipped one has keepsakes.
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
        memories["age"] = HorizonMemory(by_age, compressor)
    if hierarchy.keepsakes:
        plain = replace(world.config.horizon, hierarchy=replace(hierarchy, keepsakes=0))
        memories["cover"] = HorizonMemory(plain, compressor)
    if wrong is not None:
        memories["wrong"] = WrongMemory(world.memory, wrong)
    if takes_raw_latents(world):
        memories["raw"] = RawMemory()
    return {name: with_memory(world, memory) for name, memory in memories.items()}
