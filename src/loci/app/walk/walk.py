"""`loci walk`: from a picture and actions to a video, a contact sheet and a saved walk.

Data flow: `walk_request.py` reads the picture and the actions, `World.walk` generates
chunks of frames from them, `walk_writer.py` writes them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from loci.actions import describe
from loci.app.device import choose_device, choose_dtype, tune_threads, wait_passively
from loci.app.interruption import Interruption
from loci.app.walk.walk_request import (
    WalkOptions,
    WalkRequest,
    check_groups,
    check_request,
    parse_size,
)
from loci.errors import LociError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int, UInt8

    from loci.app.walk.walk_writer import WalkWriter
    from loci.nn.placement import WeightPlacement
    from loci.world.world import WalkState, World

PUBLISHED_SIZE = 448, 896
"""The most common of the published sizes."""


def walk(options: Annotated[WalkOptions, tyro.conf.arg(name="")]) -> None:
    """Walk into a picture: generate what is seen on the way.

    Ctrl-C ends the walk early: what has been generated is kept and can be resumed.
    """
    request = check_request(options)
    wait_passively()

    from loci.app.walk.two_processes import is_second, share_prompts, silent_if_second
    from loci.app.walk.walk_writer import WalkWriter

    with silent_if_second():
        world, state = load_world(request)
        _tune_threads(request, world, state)
        with share_prompts(world, state), Interruption():
            # a second Ctrl-C does not cost what the first one saves
            if is_second():
                for _ in generate_until_interrupted(world, state, request.actions):
                    pass
                return
            frames = state.frame_count + len(request.actions)
            writer = WalkWriter(request.outputs, world, state, frames)
            _write_outputs(request, world, state, writer)


def load_world(request: WalkRequest) -> tuple[World, WalkState]:
    """The model, and the walk where it begins or is continued."""
    from loci.acceleration.presets import get_preset
    from loci.app.walk.walk_progress import printing_stages
    from loci.world.walk_file import load_walk
    from loci.world.world import World

    options, device = request.options, choose_device(request.options.device)
    dtype = choose_dtype(options.dtype, device, request.model)
    weights = _choose_placement(request, dtype)
    world = World.from_pretrained(request.model, device, dtype, weights)
    sampling = world.config.sampling
    world.config = replace(
        world.config,
        size=world.config.size if options.size is None else parse_size(options.size),
        sampling=replace(sampling, steps=options.steps or sampling.steps),
    )
    world = world.at_speed(get_preset(options.speed, options.tolerance), verify=options.verify)
    check_groups(len(request.actions), world.codec.temporal_factor, options.model)
    if request.saved is not None:
        return world, load_walk(request.saved.path, world)
    assert request.pixels is not None
    world.prompt_cache = options.prompt_cache
    with printing_stages(world):
        state = world.start(request.pixels, options.seed, options.prompt)
    world.text_encoder = None  # not needed any more
    return world, state


def _choose_placement(request: WalkRequest, dtype: torch.dtype) -> WeightPlacement:
    """Where the weights go; prints what a large model will need, before it is read."""
    from loci.app.ram import choose_placement, parse_ram, walk_ram

    options = request.options
    need = walk_ram(request.model, dtype, *_frame_size(request))
    if need is None:
        return "int8" if options.dtype == "int8" else "resident"
    memory = None if options.max_ram is None else parse_ram(options.max_ram)
    int8 = options.dtype == "int8"
    advice = "expected more, or a smaller --size such as 256x256, or --dtype bfloat16"
    weights = choose_placement(need, memory, int8, advice)
    if need.is_large:
        print(f"{options.model} {need.described(weights)}")
    return weights


def _frame_size(request: WalkRequest) -> tuple[int, int]:
    """Height and width of the frames; a common size where only the saved walk knows."""
    from loci.io.frames import choose_bucket

    if request.options.size is not None:
        return parse_size(request.options.size)
    return PUBLISHED_SIZE if request.pixels is None else choose_bucket(*request.pixels.shape[:2])


def _tune_threads(request: WalkRequest, world: World, state: WalkState) -> None:
    """Sets the number of threads by the time of a chunk with a single sampling step."""
    from loci.acceleration.presets import Preset

    one_step = world.at_speed(Preset("one step", walk_step_share=1e-6))
    first = int(request.actions.any(axis=1).argmax())  # standing still may cost nothing
    actions = request.actions[first : first + world.chunk_frames]
    tune_threads(lambda: one_step.step(state, actions), world.device, request.model)


def _describe_computing(world: World) -> str:
    """Where, with how many threads and processes, and in which element type the model computes."""
    import torch

    threads, dtype = torch.get_num_threads(), world.transformer.patch_embedding.weight.dtype
    words = [str(world.device), str(dtype).removeprefix("torch.")]
    if world.device.type == "cpu":
        words.insert(1, f"{threads} thread{'s' * (threads > 1)}")
    if world.group is not None:
        words.append(f"{world.group.size} processes")
    return ", ".join(words)


def generate_until_interrupted(
    world: World, state: WalkState, actions: Int[np.ndarray, "n 2"]
) -> Iterator[tuple[UInt8[np.ndarray, "k h w 3"], WalkState]]:
    """New frames and the walk after them, chunk by chunk, until the actions or Ctrl-C end it, here
    or in the other process of the walk."""
    from loci.app.walk.walk_progress import WalkBar
    from loci.world.prompt_group import PartnerLeft

    chunks = world.walk(state, actions)
    with Interruption() as ctrl_c, WalkBar(world, len(actions)) as bar:
        if world.group is not None:
            world.group.undisturbed = ctrl_c.deferred
        while not ctrl_c.requested:
            chunk = None
            with ctrl_c.interruptible(), suppress(PartnerLeft):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk
            bar.add_chunk(len(chunk[0]))


def _write_outputs(
    request: WalkRequest, world: World, state: WalkState, writer: WalkWriter
) -> None:
    """Generates the walk, writes its files and prints a summary.

    Each file is written even if another cannot be, after which the first error is raised.
    """
    from loci.acceleration.stats import COLUMNS

    first, wanted, began = state.frame_count, len(request.actions), time.monotonic()
    state = _write_video(request, world, state, writer)
    done, seconds = state.frame_count - first, time.monotonic() - began
    if not done:
        raise writer.errors[0]
    complete = done == wanted and not writer.errors
    save = writer.outputs.save if complete else writer.outputs.stopped
    if save is not None:
        with writer.attempt(save):
            writer.save_walk(save, state)
    with writer.attempt(writer.outputs.sheet):
        writer.save_sheet()
    files = ", ".join(str(path) for path in writer.outputs.in_order(save) if path in writer.written)
    speed = f"{done} frames in {seconds:.1f} s, {done / seconds:.1f} a second"
    print(f"{speed} ({_describe_computing(world)}): {files}")
    print(world.stats.table(), COLUMNS, sep="\n")
    if not complete or writer.errors:
        ended = f"stopped after {done} of {wanted} frames"
        message = str(writer.errors[0]) if writer.errors else ended
        if save in writer.written and done < wanted:
            message += f"; continue with: {_command_to_continue(request, save, done)}"
        elif save in writer.written:
            message += f"; the walk is saved: {save}"
        raise LociError(message)


def _write_video(
    request: WalkRequest, world: World, state: WalkState, writer: WalkWriter
) -> WalkState:
    """Generates the walk into its video; returns it as far as its frames could be written."""
    first, save = state, writer.outputs.save
    with writer.attempt(writer.outputs.video), writer.open_video() as video:
        if request.pixels is not None:
            video.write(writer.first_frame(request.pixels))
        else:
            writer.add_tiles_of_beginning(state.frame_count)
        for frames, state_after in generate_until_interrupted(world, state, request.actions):
            video.write(frames)
            writer.add_tiles(state.frame_count, frames)
            state = state_after
            if (
                save is not None
                and (state.chunk_count - first.chunk_count) % request.options.autosave == 0
            ):
                with writer.attempt(save):
                    writer.save_walk(save, state)
                if writer.errors:
                    break
        if state is first:
            raise LociError("stopped before the first frame; nothing is written")
    return state


def _command_to_continue(request: WalkRequest, save: Path, done: int) -> str:
    """The command that generates the rest; it appends to the video that was written."""
    options = request.options
    words = ["loci", "walk", "--resume", str(save), "--model", options.model]
    words += ["--device", options.device, "--dtype", options.dtype, "--speed", options.speed]
    if options.max_ram is not None:
        words += ["--max-ram", options.max_ram]
    if options.tolerance is not None:
        words += ["--tolerance", str(options.tolerance)]
    if options.save is not None:
        words += ["--save", str(options.save)]
    return shlex.join([*words, "--keys", describe(request.actions[done:])])
